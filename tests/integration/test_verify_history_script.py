"""`scripts/verify_history.py` on a log: what it says, how it ends, and how its processes share."""

import asyncio
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from uuid import UUID

import psycopg
import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.proof import Fault
from runs_domain.settings import Secret
from runs_domain.storage import history_parts, history_workers
from runs_domain.storage.history_check import Absent, Note, Part, Progress
from runs_domain.storage.history_workers import WorkerLost, notes
from runs_domain.storage.identity import SystemClock, new_run_id
from runs_domain.storage.postgres_log import open_log
from runs_domain.storage.snapshot import open_snapshot
from tests.support.log_streams import SECRETS, Run
from tests.support.operators import run_script
from tests.support.servers import create_database, drop_database
from tests.support.tampering import Log
from tests.support.terminals import terminal
from tests.support.waiting import until_sync
from workers.stack.servers import Servers

Verify = Callable[..., tuple[int, str, str]]
MANY = 30
"""Runs beside the three of `Log`."""


@pytest.fixture(scope="module")
def kept(servers: Servers) -> Iterator[Log]:
    database = create_database(servers)

    async def fill() -> None:
        async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
            for _ in range(MANY):
                run = Run(log)
                await run.do(run.request())

    asyncio.run(fill())
    with ExitStack() as connections:
        log = Log(database, connections)
        log.as_owner("ANALYZE stored_events")
        yield log
    drop_database(servers, database)


@pytest.fixture
def log(kept: Log) -> Iterator[Log]:
    yield kept
    kept.put_right()


@pytest.fixture
def verify(log: Log) -> Verify:
    """Without a server secret or a Redis: an auditor has neither."""
    environment = {"PATH": os.environ["PATH"], "RUNLEDGER_DATABASE_URL": log.database.url}

    def run(*arguments: str, **changes: str) -> tuple[int, str, str]:
        done = run_script("verify_history.py", *arguments, env=environment | changes)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_whole_log_is_told_so(log: Log, verify: Verify) -> None:
    ((events,),) = log.as_owner("SELECT count(*) FROM stored_events")
    code, said, trouble = verify("--all")
    assert (code, trouble) == (0, "")
    assert said.startswith(f"{MANY + 3} runs, {events} events in ")
    assert said.endswith(
        "ok: every history is as it was written, as far as chains and heads can tell\n"
    )

    code, said, _ = verify("--all", "--json", "--workers", "1", "--show", "1")
    answer = json.loads(said)
    assert (code, answer["ok"], answer["runs"], answer["events"]) == (0, True, MANY + 3, events)
    assert answer["seconds"] > 0
    assert answer["eventsPerSecond"] > 0
    assert answer["first"] == []


def test_the_first_bad_event_of_each_run_is_named(log: Log, verify: Verify) -> None:
    log.edit(log.done, 2, "/workspace", "/elsewhere")
    log.as_owner("DELETE FROM stored_events WHERE originator_id = %s", log.live)
    ((place,),) = log.as_owner(
        "SELECT notification_id FROM stored_events"
        " WHERE originator_id = %s AND originator_version = 2",
        log.done,
    )
    log.as_owner("DELETE FROM run_heads WHERE run_id = %s", log.cut)
    ((unharmed,),) = log.as_owner("SELECT run_id FROM run_heads WHERE version = 1 LIMIT 1")
    code, said, trouble = verify("--all", "--show", "2")
    assert (code, trouble) == (1, "")
    assert said.count("  run ") == 2
    assert said.endswith("  and 1 run more\n")
    code, said, _ = verify("--all")
    assert "3 runs are not as they were written:\n" in said
    assert (
        f"  run {log.done}, version 2, position {place}: chain:"
        " version 2 is not what version 3 was written after\n"
    ) in said
    assert f"  run {log.live}, version 4, " in said
    assert "the log has no event of it" in said
    assert "ok:" not in said

    code, said, _ = verify("--json", str(log.done), str(unharmed))
    answer = json.loads(said)
    assert (code, answer["ok"], answer["runs"], answer["badRuns"]) == (1, False, 2, 1)
    assert answer["kinds"] == {"chain": 1}
    assert answer["first"] == [
        {
            "run": str(log.done),
            "version": 2,
            "kind": "chain",
            "sentence": "version 2 is not what version 3 was written after",
            "position": place,
        }
    ]


def test_an_account_and_single_runs_are_checked_alone(log: Log, verify: Verify) -> None:
    log.edit(log.done, 2, "/workspace", "/elsewhere")
    ((account,),) = log.as_owner("SELECT account_id FROM run_heads WHERE run_id = %s", log.cut)
    code, said, _ = verify("--account", str(account))
    assert code == 0, said
    assert said.startswith("1 run, ")
    stranger = new_run_id()
    for run_id, expected in ((log.cut, 2), (log.done, 1)):
        code, said, trouble = verify(str(run_id), str(stranger))
        assert (code, trouble) == (expected, f"verify_history: there is no run {stranger}\n")
        assert said.startswith("1 run, ")
        assert "ok:" not in said


def test_events_of_a_newer_release_are_no_fault_and_no_clean_log(log: Log, verify: Verify) -> None:
    log.rewrite(log.done, lambda envelopes: envelopes[4].update(type="run.message_persisted.v9"))
    code, said, _ = verify("--all")
    assert code == 2
    assert "1 run is of a newer release in part, which cannot be judged here:\n" in said
    assert "version 5 is run.message_persisted.v9, which this release does not know" in said
    assert "not as it was" not in said
    assert "ok:" not in said


async def test_positions_that_stand_twice_are_found(log: Log, verify: Verify) -> None:
    async def asked() -> tuple[bool, Sequence[int]]:
        async with open_snapshot(Secret(log.database.url), name="test") as snapshot:
            apart = await history_parts.keeps_positions_apart(snapshot)
            return apart, await history_parts.doubled_positions(snapshot)

    assert await asked() == (True, [])
    log.as_owner("DROP INDEX stored_events_notification_id_idx")
    try:
        assert await asked() == (False, [])
        log.as_owner(
            "UPDATE stored_events SET notification_id = 1 WHERE originator_version = 1"
            " AND originator_id IN (%s, %s)",
            *(log.done, log.cut),
        )
        assert await asked() == (False, [1])
        code, said, _ = await asyncio.to_thread(verify, "--all")
        assert code == 1
        assert "the log: no index of the database keeps its positions apart\n" in said
        assert "the log: position 1 stands there more than once\n" in said
    finally:
        log.put_right()
        log.as_owner(
            "CREATE UNIQUE INDEX stored_events_notification_id_idx"
            " ON stored_events (notification_id)"
        )


def test_rows_that_a_policy_hides_are_no_clean_log(log: Log, verify: Verify) -> None:
    log.as_owner("ALTER TABLE stored_events ENABLE ROW LEVEL SECURITY")
    log.as_owner("CREATE POLICY hide ON stored_events USING (originator_version < 5)")
    try:
        code, said, trouble = verify("--all")
        assert (code, said) == (2, "")
        assert "could not look" in trouble
    finally:
        log.as_owner("DROP POLICY hide ON stored_events")
        log.as_owner("ALTER TABLE stored_events DISABLE ROW LEVEL SECURITY")


def test_where_nothing_can_be_looked_at_it_says_why(verify: Verify) -> None:
    stranger = str(new_run_id())
    for arguments, changes, sentence in (
        (("--account", stranger), {}, f"could not look: no run of that account: {stranger}\n"),
        ((), {}, "say what to check: runs by their ids, --account, --all or --bundle"),
        (("no-run",), {}, "invalid UUID value: 'no-run'"),
        (("--all", "--workers", "0"), {}, "--workers: it takes 1 to 32"),
        (
            ("--all",),
            {"RUNLEDGER_DATABASE_URL": "mysql://canary"},
            "could not look: RUNLEDGER_DATABASE_URL must be like postgresql://",
        ),
        (
            ("--all",),
            {"RUNLEDGER_DATABASE_URL": "postgresql://nobody:canary@127.0.0.1:1/none"},
            "PostgreSQL cannot be reached (connection refused): look at RUNLEDGER_DATABASE_URL\n",
        ),
    ):
        code, said, trouble = verify(*arguments, **changes)
        assert (code, said) == (2, ""), trouble
        assert sentence in trouble
        assert "canary" not in trouble


@pytest.mark.parametrize("whole", [True, False])
def test_on_a_terminal_it_says_how_far_it_is(log: Log, *, whole: bool) -> None:
    environment = {"PATH": os.environ["PATH"], "RUNLEDGER_DATABASE_URL": log.database.url}
    ((events,),) = log.as_owner("SELECT count(*) FROM stored_events")
    said = f"{events} of about {events} events" if whole else "8 events"
    what = "--all" if whole else str(log.done)
    with terminal("verify_history.py", what, env=environment) as shown:
        until_sync(lambda: "ok: every history" in shown.written, timeout_seconds=20)
        assert said in shown.written
        assert " a second" in shown.written
        assert shown.ends() == 0


# ------------------------------------------------------------------------------ the processes


async def shared(log: Log, workers: int) -> list[Note]:
    url = Secret(log.database.url)
    async with open_snapshot(url, name="test") as snapshot:
        plan = await history_parts.all_runs(snapshot, workers)
        # Whoever comes later is not seen.
        log.as_owner("DELETE FROM run_heads")
        return list(notes(url, "test", plan.moment, plan.parts, workers))


@pytest.mark.parametrize("workers", [1, 3])
async def test_processes_share_one_moment_and_each_event_is_checked_once(
    log: Log, workers: int
) -> None:
    ((events,),) = log.as_owner("SELECT count(*) FROM stored_events")
    said = await shared(log, workers)
    assert [one for one in said if isinstance(one, Fault | Absent)] == []
    assert sum(one.events for one in said if isinstance(one, Progress)) == events
    assert sum(one.runs for one in said if isinstance(one, Progress)) == MANY + 3


async def test_parts_meet_and_leave_no_run_out(log: Log) -> None:
    async with open_snapshot(Secret(log.database.url), name="test") as snapshot:
        plan = await history_parts.all_runs(snapshot, 4)
    assert len(plan.parts) > 4
    assert plan.events == log.as_owner("SELECT count(*) FROM stored_events")[0][0]
    assert plan.parts[0].after is None
    assert plan.parts[-1].until is None
    for before, after in zip(plan.parts, plan.parts[1:], strict=False):
        assert before.until == after.after
        assert before.until is not None


async def test_an_empty_log_is_one_part(log: Log) -> None:
    log.as_owner("DELETE FROM stored_events")
    async with open_snapshot(Secret(log.database.url), name="test") as snapshot:
        plan = await history_parts.all_runs(snapshot, 4)
    assert plan.parts == [Part()]
    assert {one.kind for one in log.faults()} == {"head"}


async def test_a_process_that_is_killed_is_no_clean_log(log: Log) -> None:
    url = Secret(log.database.url)
    async with open_snapshot(url, name="test") as snapshot:
        plan = await history_parts.all_runs(snapshot, 2)
        said = notes(url, "test", plan.moment, plan.parts, 2)
        next(said)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(WorkerLost):
            list(said)
    assert multiprocessing.active_children() == []


async def test_a_database_that_falls_silent_ends_the_check(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_workers, "NOTE_SECONDS_MAX", 4.0)
    url = Secret(log.database.url)
    async with open_snapshot(url, name="test") as snapshot:
        plan = await history_parts.all_runs(snapshot, 2)
        with psycopg.connect(log.database.admin_url) as holder:
            holder.execute("LOCK TABLE run_heads IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable, match="no answer within 4 s"):
                list(notes(url, "test", plan.moment, plan.parts, 2))
    assert multiprocessing.active_children() == []


async def test_a_moment_that_is_gone_is_told(log: Log) -> None:
    with pytest.raises(StoreUnavailable):
        list(notes(Secret(log.database.url), "test", "00000003-0000001B-1", [Part()], 1))


def test_the_heads_of_a_part_are_those_of_its_runs(log: Log) -> None:
    ((one,),) = log.as_owner("SELECT run_id FROM run_heads ORDER BY run_id OFFSET 3 LIMIT 1")
    assert log.faults(Part(after=one)) == log.faults(Part(until=one)) == []
    assert log.faults(Part(runs=(UUID(int=1),))) == []
