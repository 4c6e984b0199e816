"""A worker that the kernel kills at its n-th `sendto`: no hook of ours has a part in it.

Everything that a worker tells the world goes out by that call from its main thread: to PostgreSQL,
to Redis, to a model's server (and within itself, to wake its event loop). strace lets the call be
carried out, then kills: done, and nobody left to take note of it. The thread that renews leases is
not traced, so that the count is of the run's own sends.
"""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

STRACE = shutil.which("strace")
END_SECONDS = 60.0


class TracedWorker:
    def __init__(self, process: asyncio.subprocess.Process, trace: Path) -> None:
        self._process = process
        self._trace = trace

    @property
    def sends(self) -> int:
        """So far."""
        return self._trace.read_text("utf-8", "replace").count("sendto(")

    async def ended(self) -> int:
        """Its exit code; negative = by that signal."""
        async with asyncio.timeout(END_SECONDS):
            return await self._process.wait()


@asynccontextmanager
async def traced_worker(
    environment: Mapping[str, str], place: Path, *, killed_at: int | None
) -> AsyncIterator[TracedWorker]:
    """`runledger worker`, killed at the end at the latest. `place`: a directory of its own."""
    assert STRACE is not None
    kill = [] if killed_at is None else ["-e", f"inject=sendto:signal=SIGKILL:when={killed_at}"]
    program = Path(sys.executable).with_name("runledger")
    with (place / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(STRACE, "-D", "-o", str(place / "trace"), "-e", "trace=sendto", *kill),
            *("--", str(program), "worker"),
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield TracedWorker(process, place / "trace")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
