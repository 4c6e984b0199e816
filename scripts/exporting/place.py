"""The directory of a bundle: whose turn it is, what is in it, and the step that finishes it."""

import contextlib
import fcntl
import os
from pathlib import Path

import msgspec
from bundle_check.bundle import DIRECTORY_MODE, MANIFEST, OURS, UNFINISHED, UNFINISHED_NEW
from exporting.files import CannotExport, Growing
from exporting.state import Manifest, Unfinished, read, written


class Place:
    """The directory, locked. Raises CannotExport, OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._made = not path.exists()
        path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise CannotExport(f"another export writes to {path} now") from None

    def close(self) -> None:
        os.close(self._directory)

    def abandon(self) -> None:
        """Nothing was begun: leave no trace of it."""
        if self._made:
            with contextlib.suppress(OSError):  # it is not empty any more
                self.path.rmdir()

    def found(self) -> Unfinished | Manifest | None:
        """What is there: an export that can go on, a finished one, or nothing."""
        names = {path.name for path in self.path.iterdir()}
        strange = sorted(name for name in names if not OURS.fullmatch(name))
        if strange:
            raise CannotExport(
                f"{self.path} holds other things ({strange[0]!a}): name a new directory"
            )
        if MANIFEST in names:
            return self._read(MANIFEST)
        if UNFINISHED in names:
            found = self._read(UNFINISHED)
            if isinstance(found, Manifest):
                self._publish()
            return found
        if names - {UNFINISHED_NEW}:
            raise CannotExport(f"{self.path} holds parts of something: name a new directory")
        self.path.chmod(DIRECTORY_MODE)
        return None

    def keep(self, state: Unfinished) -> None:
        self._put(UNFINISHED, written(state))

    def finish(self, manifest: Manifest) -> None:
        """In two steps, each whole: the second one alone makes it a bundle."""
        self._put(UNFINISHED, written(manifest))
        self._publish()

    def _publish(self) -> None:
        (self.path / UNFINISHED).rename(self.path / MANIFEST)
        os.fsync(self._directory)

    def _read(self, name: str) -> Unfinished | Manifest:
        try:
            return read((self.path / name).read_bytes())
        except msgspec.MsgspecError:
            raise CannotExport(
                f"{self.path / name} is not what this release writes: name a new directory"
            ) from None

    def _put(self, name: str, content: bytes) -> None:
        file = Growing(self.path / UNFINISHED_NEW)
        try:
            file.add(content)
            file.settle()
        finally:
            file.close()
        (self.path / UNFINISHED_NEW).rename(self.path / name)
        os.fsync(self._directory)
