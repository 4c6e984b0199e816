"""Worker processes of a test, and what it asks of them."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_jobs import JOB_KEYS, job_script
from tests.support.job_desk import JobDesk, job_id
from tests.support.redis_twins import ACCOUNT
from tests.support.waiting import until_sync

WAIT_SECONDS = 20.0
LEASE_SECONDS = 1.0
FIRST = job_id(1)

Worker = subprocess.Popen[bytes]


class WorkerProcesses:
    """`with WorkerProcesses(url, folder) as workers:`; all are gone at the end."""

    def __init__(self, url: str, folder: Path) -> None:
        self.desk = JobDesk(folder)
        self.redis = redis.Redis.from_url(url, socket_timeout=5.0)
        self._command = [sys.executable, "-m", "tests.support.job_worker", url, str(folder)]
        self._processes = ExitStack()

    def start(
        self,
        name: str,
        *,
        lease_seconds: float = LEASE_SECONDS,
        watchdog_seconds: float = 60.0,
        slots: int = 64,
        cron: bool = False,
    ) -> Worker:
        options = {
            "--lease-seconds": lease_seconds,
            "--watchdog-seconds": watchdog_seconds,
            "--slots": slots,
        }
        flat = [str(word) for option in options.items() for word in option]
        worker = subprocess.Popen(  # noqa: S603 - our own program
            [*self._command, name, *flat, *(["--cron"] if cron else [])]
        )
        self._processes.callback(_end, worker)
        return worker

    def send(self, *ids: str, delay_seconds: float = 0.0) -> None:
        """Send a job each, as the API does."""
        for one in ids:
            self._call("job_send", "run", one, ACCOUNT, "fresh", int(delay_seconds * 1000))

    def cancel(self, one: str) -> bool:
        return bool(self._call("job_cancel", f"run:{one}"))

    def forget_dead_consumers(self) -> None:
        """As each worker does once a minute, but all that have nothing pending count as dead."""
        self._call("job_forget", 0, "")

    def _call(self, name: str, *args: str | int) -> Any:
        script = job_script(name)
        return self.redis.eval(script.text, len(JOB_KEYS), *JOB_KEYS, names.GROUP, *args)

    def notes(self, one: str = FIRST) -> list[str]:
        """What workers noted of a job, in order: `<worker> <what>`."""
        return [f"{note.name} {note.what}" for note in self.desk.notes() if note.job_id == one]

    def noted(self, note: str, one: str = FIRST, *, timeout_seconds: float = WAIT_SECONDS) -> None:
        def stands_there() -> bool:
            return note in self.notes(one)

        until_sync(stands_there, timeout_seconds=timeout_seconds)

    def begun(self, one: str = FIRST) -> list[str]:
        """Which workers began the job, in order."""
        return [note.split()[0] for note in self.notes(one) if note.split()[1] == "begun"]

    def done(self) -> set[str]:
        """The jobs that came to their end somewhere."""
        return {note.job_id for note in self.desk.notes() if note.what == "done"}

    def all_done(self, ids: Sequence[str], *, timeout_seconds: float = WAIT_SECONDS) -> None:
        until_sync(lambda: self.done() >= set(ids), timeout_seconds=timeout_seconds)

    def nothing_left(self) -> None:
        """Wait until no job is left in Redis, nor anything else that a job put there."""

        def empty() -> bool:
            kept = {
                names.JOB_STREAM,
                names.JOB_EPOCH,
                names.JOB_WORKERS,
                names.JOB_SLOTS,
                names.JOB_COUNTERS,
                names.JOB_TURNS,
                names.duty("heal"),
            }
            keys = {key.decode() for key in self.redis.scan_iter("*{jobs}*")}
            keys = {key for key in keys if ":health:" not in key and ":cron:" not in key}
            return keys <= kept and self.redis.xlen(names.JOB_STREAM) == 0

        until_sync(empty, timeout_seconds=WAIT_SECONDS)

    def leases_pass(self, count: float) -> None:
        seconds = count * LEASE_SECONDS
        end = self.server_seconds() + seconds
        until_sync(lambda: self.server_seconds() > end, timeout_seconds=seconds + WAIT_SECONDS)

    def server_seconds(self) -> float:
        """The clock that leases and delays are counted by."""
        whole, millionths = self.redis.time()
        return whole + millionths / 1e6

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._processes.close()
        self.redis.close()


def _end(worker: Worker) -> None:
    worker.send_signal(signal.SIGKILL)
    worker.wait(WAIT_SECONDS)
