"""One command from its start to its result: the deadline, the output limit, why it ended."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Literal

from runs_domain.errors import SandboxUnavailable
from runs_domain.sandbox_port import ExecResult, KilledFor
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.output import Capture
from workers.adapters.sandbox_local.process import Command, KillReason, Place, Running, start
from workers.adapters.sandbox_local.spawn import KILL_SECONDS

OnOutput = Callable[[str, bytes], None]
StreamName = Literal["stdout", "stderr"]

_PIECE_BYTES: Final = 64 * 1024
_COMPLAINTS: Final = ("bwrap: ", "nsenter: ")
_KILLED_FOR: Final[dict[KillReason, KilledFor]] = {
    "output_limit": "output_limit",
    "disk_quota": "disk_quota",
}


async def execute(
    place: Place,
    command: Command,
    *,
    stdin: bytes,
    timeout_seconds: float,
    on_output: OnOutput | None,
    started: Callable[[Running], None],
) -> ExecResult:
    """Run to the end, whatever the end is. `started` gets the command once it can be killed."""
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    try:
        async with asyncio.timeout_at(deadline):
            running = await start(
                place,
                command,
                stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
                output=asyncio.subprocess.PIPE,
            )
    except TimeoutError:
        return ExecResult(exit_code=None, stdout="", stderr="", timed_out=True)
    output = _Output(running, place.limits, on_output)
    flows = [asyncio.create_task(flow) for flow in output.flows(stdin)]
    try:
        started(running)
        async with asyncio.timeout_at(deadline):
            await _all_of(flows)
            await running.process.wait()
    except TimeoutError:
        running.kill("timed_out")
    except BaseException:
        running.kill("cancelled")
        raise
    finally:
        # A second cancellation does not cut this short: pipes and child must not leak.
        await asyncio.shield(_settle(running, flows))
    return output.result()


async def _all_of(flows: Sequence[asyncio.Task[None]]) -> None:
    """Like gather, but a cancellation leaves the flows alone: they have yet to drain the pipes."""
    done, _ = await asyncio.wait(flows, return_when=asyncio.FIRST_EXCEPTION)
    for flow in done:
        flow.result()


async def _settle(running: Running, flows: Sequence[asyncio.Task[None]]) -> None:
    _, stuck = await asyncio.wait(flows, timeout=KILL_SECONDS)
    for flow in stuck:
        flow.cancel()
    await asyncio.gather(*flows, return_exceptions=True)  # raised by _all_of, if it got there
    await running.end()


class _Output:
    def __init__(self, running: Running, limits: Limits, on_output: OnOutput | None) -> None:
        self._running = running
        self._limits = limits
        self._on_output = on_output
        self._bytes = 0
        self._kept: dict[StreamName, Capture] = {
            "stdout": Capture(limits.output_head_chars, limits.output_tail_chars),
            "stderr": Capture(limits.output_head_chars, limits.output_tail_chars),
        }

    def flows(self, stdin: bytes) -> tuple[Coroutine[Any, Any, None], ...]:
        process = self._running.process
        return (
            self._drain("stdout", process.stdout),
            self._drain("stderr", process.stderr),
            _feed(process.stdin, stdin),
        )

    async def _drain(self, name: StreamName, pipe: asyncio.StreamReader | None) -> None:
        """To the end, also past the limit: a full pipe would keep the command from dying."""
        kept = self._kept[name]
        while pipe is not None and (piece := await pipe.read(_PIECE_BYTES)):
            self._bytes += len(piece)
            if self._bytes > self._limits.output_bytes_max:
                self._running.kill("output_limit")
            kept.add(piece)
            if self._on_output is not None:
                self._on_output(name, piece)
        kept.add(b"", last=True)

    def result(self) -> ExecResult:
        """Raises SandboxUnavailable if the script never ran."""
        reason = self._running.killed_for
        stdout, stderr = self._kept["stdout"], self._kept["stderr"]
        if reason is None and not self._running.script_ended:
            raise SandboxUnavailable(_complaint(stderr.text()))
        return ExecResult(
            exit_code=self._running.process.returncode if reason is None else None,
            stdout=stdout.text(),
            stderr=stderr.text(),
            truncated=stdout.truncated or stderr.truncated,
            timed_out=reason == "timed_out",
            cancelled=reason == "cancelled",
            killed_for=None if reason is None else _KILLED_FOR.get(reason),
        )


async def _feed(pipe: asyncio.StreamWriter | None, stdin: bytes) -> None:
    if pipe is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody has to read all
        pipe.write(stdin)
        await pipe.drain()
    pipe.close()


def _complaint(stderr: str) -> str:
    """Our programs' own words, nothing else that may have been printed."""
    lines = [line for line in stderr.splitlines() if line.startswith(_COMPLAINTS)]
    return f"the sandbox could not be set up: {' '.join(lines[-1:]) or 'it was killed'}"
