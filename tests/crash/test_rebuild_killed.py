"""A rebuild that dies, in whatever phase and whoever kills it, is finished by the same command."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from runs_domain.storage.postgres_log import PostgresEventLog
from tests.support.rebuilds import (
    REBUILD,
    assert_right,
    left_behind,
    portraits,
    projected,
    rebuilding,
    rebuilt,
    run,
    some_runs,
)
from tests.support.servers import Database, as_owner
from tests.support.waiting import until_sync

pytestmark = pytest.mark.crash
VIEWS = ("messages", "runs")
WAITS = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'runledger rebuild'
    AND wait_event_type = 'Lock'
"""
SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'runledger rebuild'
"""


@contextmanager
def held_by(database: Database, lock: str) -> Iterator[psycopg.Connection]:
    """A lock that stops a rebuild where it needs it."""
    with psycopg.connect(database.admin_url) as holder:
        holder.execute(lock.encode())
        yield holder
        holder.rollback()


def waits(database: Database) -> bool:
    return as_owner(database, WAITS) == [(True,)]


def is_alone(database: Database) -> bool:
    return as_owner(database, SESSIONS) == [(0,)]


def said(script: "subprocess.Popen[str]", words: str) -> None:
    """Wait until it says so."""
    assert script.stderr is not None
    for line in script.stderr:
        if words in line:
            return
    raise AssertionError(f"it ended without saying {words!r}")


def killed_while_loading(database: Database) -> None:
    """Its workers wait for the keys of content."""
    lock = "LOCK TABLE account_data_keys IN ACCESS EXCLUSIVE MODE"
    with (
        held_by(database, lock),
        rebuilding(database, *VIEWS) as script,
    ):
        until_sync(lambda: waits(database), timeout_seconds=30)
        script.kill()
        script.wait(10)


def killed_while_building_indexes(database: Database) -> None:
    keys = "LOCK TABLE account_data_keys IN ACCESS EXCLUSIVE MODE"
    with rebuilding(database, *VIEWS) as script:
        with held_by(database, keys):
            until_sync(lambda: waits(database), timeout_seconds=30)
            shadow = psycopg.connect(database.admin_url)
            shadow.execute("LOCK TABLE messages__rebuild IN ROW EXCLUSIVE MODE")
        with shadow:
            said(script, "index: ")
            until_sync(lambda: waits(database), timeout_seconds=30)
            script.kill()
            script.wait(10)
            shadow.rollback()
        shadow.close()


def killed_before_its_swap(database: Database) -> None:
    with (
        held_by(database, "SELECT count(*) FROM runs"),
        rebuilding(database, *VIEWS) as script,
    ):
        said(script, "runs waits for ")
        script.kill()
        script.wait(10)


def killed_before_any_swap(database: Database) -> None:
    with (
        held_by(database, "SELECT FROM runs, messages"),
        rebuilding(database, *VIEWS) as script,
    ):
        said(script, " waits for ")
        script.kill()
        script.wait(10)


def stopped_by_an_operator(database: Database) -> None:
    """Ctrl-C, in the last phase."""
    with (
        held_by(database, "SELECT count(*) FROM runs"),
        rebuilding(database, *VIEWS) as script,
    ):
        said(script, "runs waits for ")
        script.send_signal(signal.SIGINT)
        _, err = script.communicate(timeout=20)
        assert script.returncode == 130
        assert "Traceback" not in err


@pytest.mark.parametrize(
    "death",
    [
        killed_while_loading,
        killed_while_building_indexes,
        killed_before_its_swap,
        stopped_by_an_operator,
    ],
)
async def test_a_rebuild_that_died_is_gone_on_with_and_nothing_half_done_was_seen(
    database: Database, log: PostgresEventLog, death: object
) -> None:
    await some_runs(log, 6)
    await projected(database, log)
    before = await portraits(database)
    as_owner(database, "UPDATE runs SET model = 'spoilt'")
    assert callable(death)

    await asyncio.to_thread(death, database)

    await asyncio.to_thread(until_sync, lambda: is_alone(database))
    assert as_owner(database, "SELECT DISTINCT model FROM runs") == [("spoilt",)]
    await some_runs(log, 3)
    status = run(database, REBUILD, "--status")[1]
    assert status.startswith("left behind: "), status
    code, _, err = run(database, REBUILD, "credits")
    assert (code, "ask for messages, runs again" in err or "ask for runs, messages" in err) == (
        1,
        True,
    ), err

    assert rebuilt(database, *VIEWS)["resumed"] is True

    assert await portraits(database) == before
    assert left_behind(database) == []
    await projected(database, log)
    await assert_right(database)


async def test_what_a_killed_rebuild_left_is_thrown_away_on_demand(
    database: Database, log: PostgresEventLog
) -> None:
    await some_runs(log, 3)
    await asyncio.to_thread(killed_before_its_swap, database)
    assert "runs__rebuild" in left_behind(database)
    assert rebuilt(database, "credits", "--restart")["views"] == ["credits"]
    assert left_behind(database) == []
    await asyncio.to_thread(killed_before_its_swap, database)
    assert run(database, REBUILD, "--discard")[:2] == (0, "thrown away\n")
    assert left_behind(database) == []
    assert run(database, REBUILD, "--discard")[:2] == (0, "nothing was left behind\n")


@pytest.mark.parametrize("arguments", [("--discard",), ("--restart", *VIEWS)])
async def test_throwing_away_that_is_killed_has_thrown_away_nothing(
    database: Database, log: PostgresEventLog, arguments: tuple[str, ...]
) -> None:
    """Wherever it was: it waits for one table, with others dropped before."""
    await some_runs(log, 3)
    await asyncio.to_thread(killed_before_any_swap, database)
    await asyncio.to_thread(until_sync, lambda: is_alone(database))
    before = left_behind(database)
    assert {"messages__rebuild", "runs__rebuild"} <= set(before)

    def killed() -> None:
        for table in ("messages__rebuild", "runs__rebuild", "view_rebuilds"):
            with (
                held_by(database, f"LOCK TABLE {table} IN SHARE MODE"),
                rebuilding(database, *arguments) as script,
            ):
                until_sync(lambda: waits(database) or script.poll() is not None)
                script.kill()
                script.wait(10)
            until_sync(lambda: is_alone(database))
            assert left_behind(database) == before, table

    await asyncio.to_thread(killed)

    assert rebuilt(database, *VIEWS)["resumed"] is True
    assert left_behind(database) == []
    await projected(database, log)
    await assert_right(database)


async def test_a_killed_worker_ends_the_rebuild_with_a_sentence(
    database: Database, log: PostgresEventLog
) -> None:
    await some_runs(log, 3)
    lock = "LOCK TABLE account_data_keys IN ACCESS EXCLUSIVE MODE"

    def work() -> tuple[int, str]:
        with (
            held_by(database, lock),
            rebuilding(database, "messages") as script,
        ):
            until_sync(lambda: waits(database), timeout_seconds=30)
            for worker in workers_of(script.pid):
                os.kill(worker, signal.SIGKILL)
            _, err = script.communicate(timeout=20)
            return script.returncode, err

    code, err = await asyncio.to_thread(work)
    assert code == 1
    assert "a worker process was ended from outside (-9)" in err
    assert "Traceback" not in err
    assert rebuilt(database, "messages")["resumed"] is True


def workers_of(pid: int) -> list[int]:
    """Its worker processes, not multiprocessing's own helper."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
