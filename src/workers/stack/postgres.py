"""An embedded PostgreSQL: unix socket only, SCRAM passwords, one owner.

As root it runs as an account without rights. Directories are then handed over as open
descriptors (`/proc/self/fd/N`), so that none of their parents must be opened to that account.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg

from workers.stack import programs
from workers.stack.account import unprivileged
from workers.stack.child import Child, StackError, spawn
from workers.stack.places import Places

ADMIN: Final = "runledger_admin"
START_SECONDS: Final = 60.0
"""Covers crash recovery of a large log; a clean start takes a tenth of a second."""
INITDB_SECONDS: Final = 120.0
STOP: Final = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 10.0))
"""Fast shutdown; then immediate, which costs a recovery at the next start."""
STOP_AT_ONCE: Final = ((signal.SIGQUIT, 10.0),)
STATUS_LINE: Final = 7
CONNECT_SECONDS: Final = 10

SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Values of rows and statements stay out of the log: they are content.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}
# Not synchronous_commit: without it a commit waits in PostgreSQL's own memory, and a kill loses it.
NOT_DURABLE: Final = {"fsync": "off", "full_page_writes": "off"}


class Postgres:
    def __init__(self, places: Places, *, durable: bool = True) -> None:
        """`durable=False` gives up safety against power loss, for tests; a kill loses nothing."""
        self._places = places
        self._settings = SETTINGS if durable else SETTINGS | NOT_DURABLE
        self._durable = durable
        self._account = unprivileged(places.postgres)
        self._programs = programs.postgres(self._account)
        self._socket = places.sockets / "postgres"
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def child(self) -> Child:
        if self._child is None:
            raise StackError("PostgreSQL is not started")
        return self._child

    def url(self, database: str, *, user: str = ADMIN) -> str:
        """For psycopg; the password is in it."""
        password = quote(self._places.password(user), safe="")
        return (
            f"postgresql://{user}:{password}@/{database}?host={quote(str(self._socket), safe='')}"
        )

    def start(self) -> None:
        """Return when it takes connections; initdb at first. StackError says what is wrong."""
        self._check_version()
        lock = self._places.server_lock("postgres")
        try:
            if not self._places.postgres.exists():
                self._initdb()
            self._private_directory(self._socket)
            with self._handed_over(self._places.postgres, self._socket) as (fds, (data, sockets)):
                settings = self._settings | {"unix_socket_directories": sockets}
                options = [part for item in settings.items() for part in ("-c", "=".join(item))]
                self._child = spawn(
                    "postgres",
                    [str(self._programs.bin / "postgres"), "-D", data, *options],
                    log=self._places.logs / "postgres.log",
                    on_owner_death=signal.SIGINT,
                    environment=_environment(),
                    account=self._account,
                    keep_fds=[*fds, lock],
                )
        finally:
            os.close(lock)
        try:
            self._child.wait_until(self._is_ready, timeout_seconds=START_SECONDS)
            psycopg.connect(self.url("postgres"), connect_timeout=CONNECT_SECONDS).close()
        except BaseException:
            self.stop()
            raise

    def stop(self, *, at_once: bool = False) -> None:
        """Fast shutdown; `at_once` skips the checkpoint, as a crash would."""
        if self._child is not None:
            self._child.stop(STOP_AT_ONCE if at_once else STOP)
            self._child = None

    def _is_ready(self) -> bool:
        try:
            lines = (self._places.postgres / "postmaster.pid").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return False
        mine = len(lines) > STATUS_LINE and lines[0] == str(self.child.pid)
        return mine and lines[STATUS_LINE].strip() == "ready"

    def _check_version(self) -> None:
        marker = self._places.postgres / "PG_VERSION"
        if not self._places.postgres.exists():
            return
        try:
            found = marker.read_text("ascii").strip()
        except OSError as error:
            raise StackError(
                f"{self._places.postgres} is not readable data of PostgreSQL: {error.strerror}"
            ) from error
        if found != str(self._programs.major):
            raise StackError(
                f"the data in {self._places.postgres} was made by PostgreSQL {found}, "
                f"the installed programs are {self._programs.major}: dump it with the old release "
                "and restore it with this one, or move it away to start empty"
            )

    def _initdb(self) -> None:
        """Into a directory beside, so that a half-made one is never taken for data."""
        unfinished = self._places.data_dir / "postgres.unfinished"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        self._private_directory(unfinished)
        password = os.memfd_create("password")
        try:
            os.write(password, self._places.password(ADMIN).encode("ascii"))
            with self._handed_over(unfinished) as (fds, (data,)):
                self._run_initdb(data, [*fds, password], f"/proc/self/fd/{password}")
        finally:
            os.close(password)
        unfinished.rename(self._places.postgres)

    def _run_initdb(self, data: str, fds: list[int], password_file: str) -> None:
        options = ["-D", data, "--username", ADMIN, "--pwfile", password_file]
        options += ["--auth-local=scram-sha-256", "--auth-host=reject"]
        options += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
        child = spawn(
            "initdb",
            [str(self._programs.bin / "initdb"), *options, *([] if self._durable else ["-N"])],
            log=self._places.logs / "initdb.log",
            on_owner_death=signal.SIGKILL,
            environment=_environment(),
            account=self._account,
            keep_fds=fds,
        )
        child.wait_until(lambda: child.exit_code == 0, timeout_seconds=INITDB_SECONDS)

    def _private_directory(self, place: Path) -> None:
        place.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None:
            os.chown(place, self._account.uid, self._account.gid)

    @contextmanager
    def _handed_over(self, *directories: Path) -> Iterator[tuple[list[int], list[str]]]:
        """Descriptors to keep, and the name of each directory as the child must use it."""
        if self._account is None:
            yield [], [str(directory) for directory in directories]
            return
        fds = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY) for directory in directories]
        try:
            yield fds, [f"/proc/self/fd/{fd}" for fd in fds]
        finally:
            for fd in fds:
                os.close(fd)


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
