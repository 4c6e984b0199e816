"""Files that grow by lines, and can be taken up again where they were known to be whole."""

import hashlib
import os
from pathlib import Path
from typing import Final

from bundle_check.bundle import FILE_MODE
from exporting.state import PartFile

from runs_domain.errors import RunledgerError

BUFFER_BYTES_MAX: Final = 1024 * 1024
"""Lines that are not with the kernel yet."""


class CannotExport(RunledgerError):
    """The message is a sentence about the directory."""


class Growing:
    """A file that lines are added to. Errors name it."""

    def __init__(self, path: Path, *, keep_bytes: int = 0, keep_lines: int = 0) -> None:
        """What it has beyond `keep_bytes` is cut off. Raises CannotExport if it has less."""
        self.path = path
        self.bytes, self.lines = keep_bytes, keep_lines
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, FILE_MODE)
        try:
            self._take_up(keep_bytes)
        except BaseException:
            self.close()
            raise

    def _take_up(self, keep_bytes: int) -> None:
        left = keep_bytes
        while left and (block := os.read(self._file, min(left, BUFFER_BYTES_MAX))):
            self._digest.update(block)
            left -= len(block)
        if left:
            raise CannotExport(f"{self.path} is shorter than it was: remove the directory")
        os.ftruncate(self._file, keep_bytes)
        os.fchmod(self._file, FILE_MODE)

    def add(self, line: bytes) -> None:
        self.bytes += len(line)
        self.lines += 1
        self._digest.update(line)
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        if self._waiting_bytes >= BUFFER_BYTES_MAX:
            self._write()

    def settle(self) -> PartFile:
        """Everything is on the disk when this returns."""
        self._write()
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._named(error) from None
        return PartFile(
            name=self.path.name,
            bytes=self.bytes,
            lines=self.lines,
            sha256=self._digest.hexdigest(),
        )

    def close(self) -> None:
        os.close(self._file)

    def _write(self) -> None:
        left = memoryview(b"".join(self._waiting))
        self._waiting, self._waiting_bytes = [], 0
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise self._named(error) from None

    def _named(self, error: OSError) -> OSError:
        return OSError(error.errno, os.strerror(error.errno or 0), str(self.path))
