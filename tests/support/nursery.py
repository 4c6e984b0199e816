"""Workers by the dozen: each is forked off one process that has imported all that a worker does.

A worker takes a second of CPU to start, nearly all of it imports; a fork takes a tenth. What runs
then is `runledger worker` as ever, a process of its own with its own environment.

`python -m tests.support.nursery` is the process that forks: an order a line on its standard input,
`started PID` and `ended PID CODE` on its output. All it forked dies with it.
"""

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import workers.adapters.model_openai  # a worker with a gateway imports it late
import workers.bootstrap  # noqa: F401
from tests.support.waiting import until
from workers import cli

PR_SET_PDEATHSIG = 1
END_SECONDS = 30.0


class ForkedWorker:
    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self.exit_code: int | None = None
        """None while it runs; negative = ended by that signal."""

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.exit_code is None:
            os.kill(self.pid, number)

    async def ended(self, *, timeout_seconds: float = END_SECONDS) -> int | None:
        await until(lambda: self.exit_code is not None, timeout_seconds=timeout_seconds)
        return self.exit_code

    def logged(self) -> str:
        return self.log.read_text("utf-8") if self.log.exists() else ""


class Nursery:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._workers: dict[int, ForkedWorker] = {}
        self._ended: dict[int, int] = {}
        self._started: asyncio.Queue[int] = asyncio.Queue()
        self._ordering = asyncio.Lock()

    async def start(self, environment: Mapping[str, str], log: Path) -> ForkedWorker:
        """It is not ready yet: jobs wait for it in the queue."""
        assert self._process.stdin is not None
        order = {"environment": dict(environment), "log": str(log)}
        async with self._ordering:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            worker = ForkedWorker(await self._started.get(), log)
        self._workers[worker.pid] = worker
        worker.exit_code = self._ended.pop(worker.pid, None)
        return worker

    async def listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            what, pid, *code = line.split()
            if what == b"started":
                self._started.put_nowait(int(pid))
            elif (worker := self._workers.pop(int(pid), None)) is not None:
                worker.exit_code = int(code[0])
            else:
                self._ended[int(pid)] = int(code[0])


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.nursery"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    forking = Nursery(process)
    listening = asyncio.create_task(forking.listen())
    try:
        yield forking
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening


# ------------------------------------------------------------------------------ in the process


def _fork_all() -> None:
    signal.signal(signal.SIGCHLD, _reap)
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become_a_worker(order["environment"], order["log"])
        _say(f"started {pid}")


def _reap(_number: int, _frame: object) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(f"ended {pid} {os.waitstatus_to_exitcode(status)}")


def _say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def _become_a_worker(environment: dict[str, str], log: str) -> NoReturn:
    code: object = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(descriptor, target)
        sys.argv = ["runledger", "worker"]
        cli.main()
    except SystemExit as error:
        code = error.code
    finally:
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _fork_all()
