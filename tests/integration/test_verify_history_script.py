"""`scripts/verify_history.py` on a log: what it says, how it ends, and how its processes share."""

import asyncio
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from uuid import UUID

import psycopg
import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.proof import Fault
from runs_domain.settings import Secret
from runs_domain.storage import history_parts
from runs_domain.storage.history_check import Absent, Note, Part, Places, Progress
from runs_domain.storage.history_workers import WorkerLost, notes
from runs_domain.storage.identity import SystemClock, new_run_id
from runs_domain.storage.postgres_log import open_log
from runs_domain.storage.snapshot import open_snapshot
from tests.support.log_streams import SECRETS, Run
from tests.support.operators import run_script
from tests.support.servers import create_database, drop_database
from tests.support.tampering import Log
from tests.support.terminals import terminal
from tests.support.waiting import until, until_sync
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


NOTE = "note: no index of the database keeps positions apart; each was looked at\n"
INDEX = "stored_events_notification_id_idx"


def place_of(log: Log, run_id: UUID, version: int) -> int:
    ((place,),) = log.as_owner(
        "SELECT notification_id FROM stored_events"
        " WHERE originator_id = %s AND originator_version = %s",
        *(run_id, version),
    )
    return int(place)


def test_positions_that_stand_twice_are_found(log: Log, verify: Verify) -> None:
    log.as_owner(f"DROP INDEX {INDEX}")
    try:
        code, said, _ = verify("--all")
        assert (code, NOTE in said) == (0, True), said
        place = place_of(log, log.done, 6)  # its end, which is of the same moment as the next
        log.as_owner(
            "UPDATE stored_events SET notification_id = %s"
            " WHERE originator_id = %s AND originator_version = 7",
            *(place, log.done),
        )
        code, said, _ = verify("--all")
        assert (code, NOTE in said) == (1, True)
        assert f"  position {place}: " in said
        assert "stands where another event does\n" in said
    finally:
        log.put_right()
        log.as_owner(f"CREATE UNIQUE INDEX {INDEX} ON stored_events (notification_id)")


def test_two_runs_that_changed_places_in_the_log_are_found(log: Log, verify: Verify) -> None:
    """Each of them stands in its own order, its hashes are right, and their heads agree."""
    log.as_owner("UPDATE stored_events SET notification_id = -notification_id")
    runs = [log.cut, log.live]
    places = [[place_of(log, run, version) for version in (1, 2, 3, 4)] for run in runs]
    for run, theirs in zip(runs, reversed(places), strict=True):
        for version, place in enumerate(sorted(-one for one in theirs), start=1):
            log.as_owner(
                "UPDATE stored_events SET notification_id = %s"
                " WHERE originator_id = %s AND originator_version = %s",
                *(place, run, version),
            )
    log.as_owner(
        "UPDATE stored_events SET notification_id = -notification_id WHERE notification_id < 0"
    )
    log.as_owner(
        "UPDATE run_heads SET requested_position = notification_id FROM stored_events"
        " WHERE (originator_id, originator_version) = (run_id, 1)"
    )
    code, said, _ = verify("--all")
    assert code == 1, said
    assert " is older than the event before it\n" in said
    assert f"version 1 of run {log.cut} " in said or f"version 1 of run {log.live} " in said
    answer = json.loads(verify("--all", "--json", "--show", "1")[1])
    assert (answer["ok"], len(answer["misplaced"])) == (False, 1)
    assert answer["misplacedEvents"] >= 1


@pytest.mark.parametrize("place", [None, -7, 0])
def test_an_event_without_a_place_in_the_log_is_found(
    log: Log, verify: Verify, place: int | None
) -> None:
    log.as_owner("ALTER TABLE stored_events ALTER notification_id DROP NOT NULL")
    try:
        log.as_owner(
            "UPDATE stored_events SET notification_id = %s"
            " WHERE originator_id = %s AND originator_version = 1",
            *(place, log.live),
        )
        log.as_owner(
            "UPDATE run_heads SET requested_position = coalesce(%s, requested_position)"
            " WHERE run_id = %s",
            *(place, log.live),
        )
        code, said, _ = verify(str(log.live))
        assert (code, "position: version 1 has no place in the log\n" in said) == (1, True), said
    finally:
        log.put_right()
        log.as_owner("ALTER TABLE stored_events ALTER notification_id SET NOT NULL")


async def planned(log: Log) -> history_parts.Plan:
    async with open_snapshot(Secret(log.database.url), name="test") as snapshot:
        return await history_parts.all_runs(snapshot, 4)


def test_rows_of_places_meet_and_leave_no_place_out(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They meet in an event, so that those of two rows are held to each other too."""
    monkeypatch.setattr(history_parts, "PLACES_BYTES", 1_000)
    parts = [one for one in asyncio.run(planned(log)).parts if isinstance(one, Places)]
    assert len(parts) > MANY
    assert (parts[0].first, parts[-1].last) == (None, None)
    assert all(one.last == other.first for one, other in pairwise(parts))
    assert all(one.last is not None for one in parts[:-1])


PARTITIONS = (
    "CREATE TABLE parted (LIKE stored_events INCLUDING DEFAULTS) PARTITION BY HASH (originator_id)",
    *(
        f"CREATE TABLE parted_{number} PARTITION OF parted"
        f" FOR VALUES WITH (MODULUS 3, REMAINDER {number})"
        for number in range(3)
    ),
    "INSERT INTO parted SELECT * FROM stored_events",
    "ALTER TABLE parted ADD PRIMARY KEY (originator_id, originator_version)",
    "CREATE INDEX ON parted (notification_id)",
    "ALTER TABLE stored_events RENAME TO whole_events",
    "ALTER TABLE parted RENAME TO stored_events",
    "GRANT SELECT, INSERT ON stored_events TO runledger_service",
    "ANALYZE stored_events",
)


def test_a_log_in_partitions_is_whole_and_noted_to_be_so(
    log: Log, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((events,),) = log.as_owner("SELECT count(*) FROM stored_events")
    for statement in PARTITIONS:
        log.as_owner(statement)
    try:
        monkeypatch.setattr(history_parts, "PLACES_BYTES", 1_000)
        # A partitioned table has no pages of its own, and is large for all that.
        assert len(asyncio.run(planned(log)).parts) > MANY
        code, said, trouble = verify("--all", "--workers", "1")
        assert (code, NOTE in said, trouble) == (0, True, ""), said
        assert f"{MANY + 3} runs, {events} events in " in said
        log.edit(log.done, 2, "/workspace", "/elsewhere")
        assert verify("--all")[0] == 1
    finally:
        log.as_owner("DROP TABLE stored_events")
        log.as_owner("ALTER TABLE whole_events RENAME TO stored_events")


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
        return list(notes(url, "test", plan, workers))


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
    parts = [one for one in plan.parts if isinstance(one, Part)]
    assert len(parts) > 4
    assert plan.events == log.as_owner("SELECT count(*) FROM stored_events")[0][0]
    assert parts[0].after is None
    assert parts[-1].until is None
    for before, after in pairwise(parts):
        assert before.until == after.after
        assert before.until is not None


async def test_an_empty_log_is_one_part(log: Log) -> None:
    log.as_owner("DELETE FROM stored_events")
    async with open_snapshot(Secret(log.database.url), name="test") as snapshot:
        plan = await history_parts.all_runs(snapshot, 4)
    assert plan.parts == [Part(), Places()]
    assert {one.kind for one in log.faults()} == {"head"}


async def test_a_process_that_is_killed_is_no_clean_log(log: Log) -> None:
    url = Secret(log.database.url)
    async with open_snapshot(url, name="test") as snapshot:
        plan = await history_parts.all_runs(snapshot, 2)
        said = notes(url, "test", plan, 2)
        next(said)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(WorkerLost):
            list(said)
    assert multiprocessing.active_children() == []


async def test_a_database_that_falls_silent_ends_the_check(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_parts, "QUIET_SECONDS_MAX", 4.0)
    url = Secret(log.database.url)
    async with open_snapshot(url, name="test") as snapshot:
        plan = await history_parts.all_runs(snapshot, 2)
        with psycopg.connect(log.database.admin_url) as holder:
            holder.execute("LOCK TABLE run_heads IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable, match="no answer within 4 s"):
                list(notes(url, "test", plan, 2))
    assert multiprocessing.active_children() == []


async def test_a_session_that_is_cut_is_told_once_and_by_the_parent(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    waiting = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE application_name = 'cut' AND wait_event_type = 'Lock'"
    )
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cut'"
    async with open_snapshot(Secret(log.database.url), name="test") as snapshot:
        plan = await history_parts.all_runs(snapshot, 2)
        with psycopg.connect(log.database.admin_url) as holder:
            holder.execute("LOCK TABLE run_heads IN ACCESS EXCLUSIVE MODE")
            checking = asyncio.create_task(
                asyncio.to_thread(list, notes(Secret(log.database.url), "cut", plan, 1))
            )
            await until(lambda: log.as_owner(waiting))
            log.as_owner(cut)
            with pytest.raises(StoreUnavailable):
                await checking
    assert capfd.readouterr().err == ""


async def test_a_moment_that_is_gone_is_told(log: Log) -> None:
    plan = history_parts.Plan("00000003-0000001B-1", [Part()])
    with pytest.raises(StoreUnavailable):
        list(notes(Secret(log.database.url), "test", plan, 1))


def test_the_heads_of_a_part_are_those_of_its_runs(log: Log) -> None:
    ((one,),) = log.as_owner("SELECT run_id FROM run_heads ORDER BY run_id OFFSET 3 LIMIT 1")
    assert log.faults(Part(after=one)) == log.faults(Part(until=one)) == []
    assert log.faults(Part(runs=(UUID(int=1),))) == []
