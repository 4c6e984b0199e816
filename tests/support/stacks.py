"""Whole stacks of real processes: a quiet one that tests share, and ones of a test's own to break.

`stack.details` is what dev.json says: `baseUrl`, `apiKey`, `databaseUrl`, `env` and so on.
"""

import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from typing_extensions import override

from runs_domain.ids import SessionId, sandbox_name
from runs_domain.settings import PREFIX
from tests.support.links import Links
from workers.stack.postgres import Postgres
from workers.stack.prepare import prepare_database
from workers.stack.processes import Process
from workers.stack.servers import Servers
from workers.stack.stack import Stack
from workers.stack.valkey import Valkey

KILL_SECONDS = 10.0


@contextmanager
def quiet_stack() -> Iterator[Stack]:
    """Ready: PostgreSQL, Valkey, API, projector, one worker with the local sandbox."""
    with (
        _place() as place,
        Stack(place, workers=1, port=0, environ=_environ({}), say=_say, durable=False) as ready,
    ):
        yield ready


class BreakableStack(Stack):
    """Comes without workers: a test starts them, and may stop, kill and start every part."""

    def __init__(self, data_dir: Path, environ: Mapping[str, str]) -> None:
        super().__init__(data_dir, workers=0, port=0, environ=environ, say=_say, durable=False)
        self._environment: Mapping[str, str] = {}

    @property
    def api(self) -> Process:
        return self._processes["api"]

    @property
    def postgres(self) -> Postgres:
        return self._servers.postgres

    @property
    def valkey(self) -> Valkey:
        return self._servers.valkey

    def workspace_of(self, session_id: str) -> Path:
        """What the session's sandbox sees as /workspace; it is there as long as the sandbox is."""
        name = sandbox_name(SessionId(UUID(session_id)))
        return self.sandboxes / name / "workspace"

    @property
    def sandboxes(self) -> Path:
        """Where the local sandboxes stand, each under its name; there from the first one on."""
        return self._data_dir / "sandboxes"

    @property
    def environment(self) -> Mapping[str, str]:
        """What its processes have."""
        return self._environment

    @property
    def logs(self) -> Path:
        return self._servers.places.logs

    def start_worker(self, **settings: str) -> Process:
        """One more, ready to take jobs; `settings` are its alone."""
        name = f"worker-{len(self._processes)}"
        own = {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}
        environment = {**self._environment, **own}
        worker = Process(name, "worker", self._servers.places, environment)
        self._processes[name] = worker
        worker.start()
        worker.wait_until_ready()
        return worker

    def log_of(self, process: Process) -> str:
        return process.child.log.read_text("utf-8")

    @override
    def _start_processes(self, environment: Mapping[str, str], port: int) -> None:
        self._environment = environment
        super()._start_processes(environment, port)

    @override
    def _stop_processes(self) -> None:
        for process in self._processes.values():
            process.child.kill(signal.SIGCONT)  # a test that failed may have left one asleep
        super()._stop_processes()


class LinkedStack(BreakableStack):
    """Its processes reach the servers by `links`, which a test can cut; workers are forked or
    started as before.
    """

    links: Links

    @override
    def _start_processes(self, environment: Mapping[str, str], port: int) -> None:
        sockets = self._servers.places.sockets
        self.links = Links(
            sockets / "links", postgres=sockets / "postgres", redis=sockets / "valkey.sock"
        )
        super()._start_processes(self.links.through("api", environment), port)
        self._environment = self.links.through("worker", environment)

    @override
    def _stop_processes(self) -> None:
        self.links.heal()
        super()._stop_processes()
        self.links.close()


@contextmanager
def prepared_data() -> Iterator[Path]:
    """A data directory with a migrated database; stacks start faster on a copy of it."""
    with _place() as place:
        with Servers(place, durable=False) as servers:
            prepare_database(servers)
        yield place


@contextmanager
def breakable_stack(prepared: Path, settings: Mapping[str, str]) -> Iterator[BreakableStack]:
    """`settings` by their names without RUNLEDGER_, as in `lease_seconds`."""
    with _copy(prepared) as place, BreakableStack(place, _environ(settings)) as stack:
        yield stack


@contextmanager
def linked_stack(prepared: Path, settings: Mapping[str, str]) -> Iterator[LinkedStack]:
    with _copy(prepared) as place, LinkedStack(place, _environ(settings)) as stack:
        yield stack


@contextmanager
def _copy(prepared: Path) -> Iterator[Path]:
    with _place() as place:
        copy = ["cp", "-a", "--reflink=auto", f"{prepared}/.", str(place)]
        subprocess.run(copy, check=True)  # noqa: S603 - no shell, our own paths
        yield place


def kill(process: Process, number: signal.Signals = signal.SIGKILL) -> None:
    """Send the signal and wait until the process has ended."""
    process.child.kill(number)
    assert process.child.wait(KILL_SECONDS), f"{process.name} did not end by {number.name}"


@contextmanager
def _place() -> Iterator[Path]:
    """A short path, because sockets lie below it."""
    place = Path(tempfile.mkdtemp(prefix="rl-"))
    try:
        yield place
    finally:
        shutil.rmtree(place)


def _environ(settings: Mapping[str, str]) -> dict[str, str]:
    """The machine's environment, but none of its settings for Runledger."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return own | {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}


def _say(sentence: str) -> None:
    logging.getLogger(__name__).info(sentence)
