"""A seeded log to measure on: servers of its own, and the operators' scripts as commands."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from runs_domain.ids import AccountId
from runs_domain.keys import ServerSecrets
from runs_domain.settings import Secret
from runs_domain.storage.accounts import Accounts
from runs_domain.storage.connection import ReconnectingConnection
from scripts.bench_parts._memory import PeakMemory
from scripts.bench_parts.lib import cpu_seconds, ended_cpu_seconds
from workers.stack.prepare import DATABASE, prepare_database
from workers.stack.servers import Servers
from workers.stack.stack import Stack

SCRIPTS = Path(__file__).parents[1]
SCRIPT_SECONDS_MAX = 3600.0
LOG_TABLES = ("stored_events", "run_heads", "api_keys")
VIEWS = ("runs", "messages", "credits", "sandboxes")
KEY_PREFIX = "recoup_sk_"


class Place(NamedTuple):
    """A data directory whose servers run."""

    folder: Path
    env: dict[str, str]
    """What scripts need; bare servers have no API."""
    postgres_pid: int

    @property
    def admin_url(self) -> str:
        return self.env["RUNLEDGER_ADMIN_DATABASE_URL"]

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """As the owner, outside any transaction."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), values)
            return cursor.fetchall() if cursor.description else []

    @property
    def events(self) -> int:
        [(events,)] = self.rows("SELECT count(*) FROM stored_events")
        return int(events)


class Ran(NamedTuple):
    """A command that ended well."""

    said: dict[str, Any]
    seconds: float
    memory: PeakMemory
    cpu_seconds: dict[str, float]
    """Of the command's processes, and of PostgreSQL meanwhile, whoever it worked for."""

    def cpu_us_per(self, count: int) -> dict[str, float]:
        return {name: round(spent / count * 1e6, 2) for name, spent in self.cpu_seconds.items()}


def say(sentence: str) -> None:
    sys.stderr.write(f"bench: {sentence}\n")
    sys.stderr.flush()


@contextmanager
def data_directory() -> Iterator[Path]:
    """Removed at the end; in TMPDIR, which may be where the room is."""
    with tempfile.TemporaryDirectory(prefix="rl-bench-") as folder:
        yield Path(folder)


@contextmanager
def bare_servers(folder: Path) -> Iterator[Place]:
    """PostgreSQL and Valkey, migrated; none of our processes."""
    with Servers(folder) as servers:
        prepare_database(servers)
        env = {
            "PATH": os.environ["PATH"],
            "RUNLEDGER_DATABASE_URL": servers.database_url(DATABASE),
            "RUNLEDGER_ADMIN_DATABASE_URL": servers.database_url(DATABASE, admin=True),
            "RUNLEDGER_REDIS_URL": servers.redis_url,
            "RUNLEDGER_SECRET": servers.places.password("server_secret"),
            "RUNLEDGER_DATA_DIR": str(folder),
        }
        yield Place(folder, env, servers.postgres.pid)


@contextmanager
def stack_on(folder: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """A whole stack on what is in `folder`, one worker; and what dev.json says."""
    environ = dict(os.environ)
    environ.setdefault("RUNLEDGER_LOG_LEVEL", "WARNING")
    environ["RUNLEDGER_SANDBOX"] = "none"
    with Stack(folder, workers=1, port=0, environ=environ, say=say) as running:
        env = {"PATH": os.environ["PATH"], **running.details["env"]}
        yield Place(folder, env, running.details["pids"]["postgres"]), running.details


def seed(place: Place, runs: int, *options: str) -> dict[str, Any]:
    """What seed_log says. Vacuumed, as a live log would have been on its way there."""
    say(f"seeds {runs:,} runs")
    ran = run_script(place, "seed_log.py", "--runs", str(runs), *options, "--json")
    vacuum(place, *LOG_TABLES)
    cpu = ran.cpu_us_per(ran.said["events"])
    return ran.said | {"cpu_us_per_event": cpu, "memory_mib_max": ran.memory.mib_max}


def vacuum(place: Place, *tables: str) -> None:
    for table in tables:
        place.rows(f"VACUUM (ANALYZE) {table}")
    place.rows("CHECKPOINT")


def run_script(place: Place, name: str, *arguments: str, codes: Sequence[int] = (0,)) -> Ran:
    """An operators' script that prints one JSON object last. Ends the benchmark if it fails, that
    is, if its exit code is not one of `codes`."""
    return run_json(place, [sys.executable, str(SCRIPTS / name), *arguments], codes)


def run_module(place: Place, name: str, *arguments: str) -> Ran:
    """`python -m scripts.bench_parts.NAME`, likewise."""
    return run_json(place, [sys.executable, "-m", f"scripts.bench_parts.{name}", *arguments])


def run_json(place: Place, argv: list[str], codes: Sequence[int] = (0,)) -> Ran:
    begin, cpu = time.perf_counter(), _cpu_seconds(place)
    with subprocess.Popen(  # noqa: S603 - our own argv
        argv, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            with PeakMemory(process.pid) as memory:
                out, err = process.communicate(timeout=SCRIPT_SECONDS_MAX)
        finally:
            process.kill()
    seconds = time.perf_counter() - begin
    if process.returncode not in codes:
        raise SystemExit(f"bench: {' '.join(argv[1:])} ended with {process.returncode}: {err}")
    spent = {name: after - cpu[name] for name, after in _cpu_seconds(place).items()}
    lines = out.strip().splitlines()
    return Ran(json.loads(lines[-1]) if lines else {}, seconds, memory, spent)


def _cpu_seconds(place: Place) -> dict[str, float]:
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "processes": ours.ru_utime + ours.ru_stime,
        "postgres": cpu_seconds(place.postgres_pid) + ended_cpu_seconds(place.postgres_pid),
    }


def empty_views(place: Place, *views: str) -> None:
    """As if the log were new to them."""
    for view in views:
        place.rows(f"TRUNCATE {view}")
        place.rows("UPDATE checkpoints SET position = 0 WHERE name = %s", view)


def largest_account(place: Place) -> AccountId:
    """The account with the most runs."""
    [(account,)] = place.rows(
        "SELECT account_id FROM run_heads GROUP BY account_id ORDER BY count(*) DESC LIMIT 1"
    )
    return AccountId(account)


async def key_of(place: Place, account: AccountId) -> str:
    """A new API key of the account's."""
    owner = ReconnectingConnection(Secret(place.admin_url), name="bench")
    secrets = ServerSecrets({1: Secret(place.env["RUNLEDGER_SECRET"])}, current=1)
    try:
        minted = await Accounts(owner, secrets, KEY_PREFIX).mint_key(account)
    finally:
        await owner.close()
    return minted.secret.reveal()
