"""Where a stack keeps its things: one data directory, closed to everybody else.

credentials/   passwords (files of 0600)
logs/          what the processes print
postgres/      PostgreSQL's data          valkey/   the append-only file
run/           the unix sockets, unless the path is too long for them
"""

import fcntl
import hashlib
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Final

from workers.stack.child import POLL_SECONDS, StackError

SOCKET_PATH_BYTES_MAX: Final = 107
LONGEST_SOCKET_NAME: Final = "postgres/.s.PGSQL.5432.lock"
PASSWORD_BYTES: Final = 24
SERVER_GONE_SECONDS: Final = 15.0
"""How long the servers of an owner that was killed may take to shut down."""


class Places:
    def __init__(self, data_dir: Path) -> None:
        """Makes the directories. Raises StackError where it cannot, or they are somebody else's."""
        self.data_dir = data_dir.absolute()
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _close(self.data_dir)
            self.logs = self._inner("logs")
            self.credentials = self._inner("credentials")
            self.valkey = self._inner("valkey")
            self.postgres = self.data_dir / "postgres"
            self.sockets = self._socket_directory()
        except OSError as error:
            raise StackError(
                f"the data directory {self.data_dir} cannot be used: {error.strerror}"
                f" ({error.filename}); RUNLEDGER_DATA_DIR names another one"
            ) from error

    def _inner(self, name: str) -> Path:
        place = self.data_dir / name
        place.mkdir(mode=0o700, exist_ok=True)
        return place

    def _socket_directory(self) -> Path:
        inside = self.data_dir / "run"
        if len(os.fsencode(inside / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX:
            inside.mkdir(mode=0o700, exist_ok=True)
            return inside
        name = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        short = Path(f"/tmp/runledger-{os.geteuid()}-{name}")  # noqa: S108 - _close checks whose it is
        short.mkdir(mode=0o700, exist_ok=True)
        _close(short)
        return short

    def password(self, name: str) -> str:
        """The password of that name, made at first use."""
        path = self.credentials / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text("ascii")
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(PASSWORD_BYTES))
            file.flush()
            os.fsync(file.fileno())
        return path.read_text("ascii")

    def own(self) -> int:
        """Lock the data directory for this process; StackError names the owner there is."""
        descriptor = os.open(self.data_dir / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not _locked(descriptor):
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StackError(
                f"the stack in {self.data_dir} already runs (pid {owner or 'unknown'}); "
                "stop it first, join it with the settings in its dev.json, "
                "or set RUNLEDGER_DATA_DIR to another directory"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        return descriptor

    def server_lock(self, name: str) -> int:
        """A lock that the server inherits, so that it is held until the server has ended.

        An owner that was killed frees its own lock at once, while its servers still write.
        """
        descriptor = os.open(self.data_dir / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + SERVER_GONE_SECONDS
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise StackError(f"a {name} of a stack that has gone still uses {self.data_dir}")
            time.sleep(POLL_SECONDS)
        return descriptor


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(place: Path) -> None:
    """Make sure that `place` is a directory of ours that nobody else can enter."""
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), 0}:
        raise StackError(f"{place} is not a directory of this user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        place.chmod(0o700)
