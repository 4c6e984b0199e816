"""A terminal with a program in it, as a person would have it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from tests.support.operators import SCRIPTS
from tests.support.waiting import until_sync

HOME: Final = "\x1b[H"
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
SHOW_CURSOR: Final = "\x1b[?25h"
END_SECONDS_MAX: Final = 10.0
_STYLES: Final = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """`read` gives all that was written to it, `screen()` what stands on it."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", outer: int, inner: int, columns: int, rows: int
    ) -> None:
        self.process = process
        self._columns, self._rows = columns, rows
        self._outer = outer
        self._inner = inner
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def written(self) -> str:
        return self._written.decode("utf-8", "replace")

    def screen(self) -> list[str]:
        """Lines of the newest whole picture in the window's size, without styles."""
        for picture in reversed(self.written.split(HOME)[1:]):
            lines = _STYLES.sub("", picture.split(LEAVE_SCREEN)[0]).split("\r\n")
            if len(lines) == self._rows and len(lines[-1].split("\x1b")[0]) == self._columns:
                return lines
        return []

    def shows(self, text: str) -> list[str]:
        """The screen, once `text` stands on it."""
        until_sync(lambda: any(text in line for line in self.screen()), timeout_seconds=20)
        return self.screen()

    def press(self, keys: str) -> None:
        os.write(self._outer, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        self._columns, self._rows = columns, rows
        set_size(self._inner, columns, rows)

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self._inner)

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(END_SECONDS_MAX)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._outer, 65536)
            except OSError:
                return
            if not data:
                return
            self._written += data


@contextmanager
def terminal(
    name: str, *arguments: str, env: Mapping[str, str], columns: int = 120, rows: int = 30
) -> Iterator[Terminal]:
    """`scripts/<name>` in a terminal of that size; killed if it has not ended when the test has."""
    outer, inner = pty.openpty()
    set_size(inner, columns, rows)
    process = subprocess.Popen(  # noqa: S603 - our own argv
        [sys.executable, str(SCRIPTS / name), *arguments],
        env={"TERM": "xterm-256color", **env},
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one system call
    )
    try:
        yield Terminal(process, outer, inner, columns, rows)
    finally:
        process.kill()
        process.wait()
        os.close(inner)
        os.close(outer)


def set_size(inner: int, columns: int, rows: int) -> None:
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
