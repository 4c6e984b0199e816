"""Direct children of a supervisor: none outlives it, whatever kills it.

Spawn from the main thread: the kernel ties the death signal to the *thread* that forked.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from runs_domain.errors import RunledgerError
from workers.stack import launch
from workers.stack.account import Account

POLL_SECONDS: Final = 0.005
LOG_TAIL_BYTES: Final = 2_000
KILL_WAIT_SECONDS: Final = 5.0


class StackError(RunledgerError):
    """What keeps a stack from starting, in a sentence for the person who started it."""


class Child:
    """One process in a session of its own, its output in `log`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative = ended by that signal."""
        return self._process.poll()

    def kill(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        self._process.send_signal(number)

    def wait(self, timeout_seconds: float) -> bool:
        """True once it has ended; False if it still runs after `timeout_seconds`."""
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, ladder: Sequence[tuple[signal.Signals, float]]) -> None:
        """Each signal with the seconds it is given, then SIGKILL. Returns when it has ended."""
        for number, seconds in ladder:
            self.kill(number)
            if self.wait(seconds):
                return
        self.kill(signal.SIGKILL)
        if not self.wait(KILL_WAIT_SECONDS):
            raise StackError(f"{self.name} (pid {self.pid}) does not end, not even by SIGKILL")

    def wait_until(self, ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Return when `ready()`; StackError with the log's end if it ends or takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            code = self.exit_code
            if code is not None:
                raise StackError(f"{self.name} ended with {code}: {log_tail(self.log)}")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.name} is not ready after {timeout_seconds:g} s: {log_tail(self.log)}"
                )
            time.sleep(POLL_SECONDS)


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    log: Path,
    on_owner_death: signal.Signals,
    environment: Mapping[str, str],
    account: Account | None = None,
    keep_fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> Child:
    """Start `argv` (argv[0] a full path); `account`: whom to become, as root only."""
    options = ["--parent", str(os.getpid()), "--signal", str(int(on_owner_death))]
    if account is not None:
        options += ["--uid", str(account.uid), "--gid", str(account.gid)]
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own argv, no shell
            [sys.executable, "-I", "-S", str(launch.__file__), *options, "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,
            pass_fds=keep_fds,
            cwd=cwd,
        )
    return Child(name, process, log)


def log_tail(log: Path) -> str:
    """The last lines of a log, for an error's sentence."""
    with log.open("rb") as lines:
        lines.seek(0, os.SEEK_END)
        lines.seek(max(0, lines.tell() - LOG_TAIL_BYTES))
        text = lines.read().decode("utf-8", "replace").strip()
    return text or f"nothing in {log}"
