"""`scripts/seed_log.py`: a made-up log that nothing can tell from a real one."""

import asyncio
import base64
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import pytest
from typing_extensions import override

from runs_domain.ids import RunId, Version
from runs_domain.ports import Append, Context, Recorded
from runs_domain.proof import StreamProof
from runs_domain.run import fold, is_live, is_open, status_of
from runs_domain.settings import Secret
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.data_key_rows import PostgresDataKeys
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import open_log
from runs_domain.storage.sealing import DataKey, DataKeys
from tests.support.log_streams import SECRETS, Run
from tests.support.operators import environment_of, run_script, started_script
from tests.support.servers import Database, Servers, as_owner, create_database, drop_database
from tests.support.views import are_caught_up
from tests.support.waiting import until, until_sync
from workers.projector import all_projections, project

RUNS: Final = 300
LIVE: Final = 3
UNTIL: Final = "2026-01-31T12:00:00Z"
OPTIONS: Final = ("--runs", str(RUNS), "--accounts", "5", "--live", str(LIVE), "--until", UNTIL)
CLOCK: Final = SystemClock()
Query = Callable[[str], list[tuple[Any, ...]]]


def seed(database: Database, *options: str) -> "subprocess.CompletedProcess[str]":
    return run_script("seed_log.py", *options, "--json", env=environment_of(database, owner=True))


def query_of(database: Database) -> Query:
    return partial(as_owner, database)


@pytest.fixture(scope="module")
def seeded(servers: Servers) -> Iterator[Database]:
    """300 runs, the last three under way; tests only read it."""
    database = create_database(servers)
    done = seed(database, *OPTIONS)
    assert done.returncode == 0, done.stderr
    yield database
    drop_database(servers, database)


async def recorded(database: Database) -> list[tuple[StoredRow, Recorded]]:
    """The log in order of its positions, as it stands and as it reads."""
    reader = ReconnectingConnection(Secret(database.admin_url), name="test")
    keys = DataKeys(PostgresDataKeys(reader), SECRETS, CLOCK)
    try:
        rows = [
            StoredRow(*row)
            for row in await reader.fetch(
                "SELECT originator_id, originator_version, topic, state, notification_id"
                " FROM stored_events ORDER BY notification_id"
            )
        ]
        opened = [codec.open_row(row) for row in rows]
        data_keys = await keys.for_reading(one.subject for one in opened)
    finally:
        await reader.close()
    return [
        (row, codec.decode(row, envelope, data_keys[envelope.subject]))
        for row, envelope in zip(rows, opened, strict=True)
    ]


class _SameSeal(DataKey):
    """Gives for a content what is in the log already: sealing alone is left to chance."""

    def __init__(self, sealed: bytes) -> None:
        self._sealed = sealed

    @override
    def seal(self, plain: bytes, run_id: RunId, version: Version, *, row: str = "") -> bytes:
        return self._sealed


async def test_the_seeded_bytes_are_those_that_the_codec_writes(seeded: Database) -> None:
    for row, one in await recorded(seeded):
        sealed = base64.b64decode(json.loads(row.state).get("sealed", ""))
        append = Append(
            run_id=one.run_id,
            expected_version=Version(one.version - 1),
            prev=one.prev,
            events=(one.event,),
            context=Context(
                actor=one.actor,
                subject=one.subject,
                correlation=one.correlation,
                causation=one.causation,
                attempt=one.attempt,
            ),
            account_id=one.subject,
            chat_id=one.run_id,  # type: ignore[arg-type]  # not in the bytes
            session_id=one.run_id,  # type: ignore[arg-type]  # the same
            status="queued",
            live=True,
            open=True,
        )
        (piece,) = codec.encode(append, _SameSeal(sealed))
        assert piece.join(one.at, one.prev) == row.state


async def test_every_stream_is_legal_and_its_head_and_keys_are_the_fold(seeded: Database) -> None:
    done = run_script("check_invariants.py", "--json", env=environment_of(seeded))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["runs"], found["events"]) == (RUNS, len(await recorded(seeded)))


async def test_every_stream_proves_itself_by_its_bytes_alone(seeded: Database) -> None:
    query = query_of(seeded)
    proofs: dict[UUID, StreamProof] = {}
    for row, _ in await recorded(seeded):
        proof = proofs.setdefault(row.run_id, StreamProof(str(row.run_id)))
        fault = proof.take(row.version, row.tag, bytes(row.state), position=row.position)
        assert fault is None, fault
    heads = query("SELECT run_id, version, encode(head_hash, 'hex') FROM run_heads")
    assert len(heads) == len(proofs) == RUNS
    for run_id, version, head_hash in heads:
        assert proofs[run_id].end(version, head_hash) is None


async def test_a_hundred_runs_have_nine_hundred_events_of_every_kind(seeded: Database) -> None:
    streams: dict[UUID, list[Recorded]] = {}
    for _, one in await recorded(seeded):
        streams.setdefault(one.run_id, []).append(one)
    states = [fold([one.event for one in stream]) for stream in streams.values()]
    live = [state for state in states if is_live(state)]
    assert len(live) == LIVE
    assert all(state.started and is_open(state) for state in live)
    assert {status_of(state) for state in states} == {"completed", "failed", "cancelled", "running"}
    assert any(state.tries_lost for state in states)
    assert any(state.started_calls for state in states)
    # Three that would have ended have four events in place of what they would have had.
    whole = sum(len(stream) for stream in list(streams.values())[:200])
    assert whole == 1800
    endings = [state.ending for state in states if state.ending is not None]
    assert sum(one.credits_charged for one in endings) > 0
    assert all(state.requested and state.requested.credits_reserved for state in states)


async def test_times_and_run_ids_rise_with_the_positions_and_runs_overlap(
    seeded: Database,
) -> None:
    events = [one for _, one in await recorded(seeded)]
    assert [one.position for one in events] == list(range(1, len(events) + 1))
    assert all(one.at <= later.at for one, later in pairwise(events))
    runs = list(dict.fromkeys(one.run_id for one in events))
    assert runs == sorted(runs)
    assert {run.version for run in runs} == {7}
    switches = sum(one.run_id != later.run_id for one, later in pairwise(events))
    assert switches > 2 * RUNS
    assert events[-1].at.isoformat() < UNTIL


async def test_the_projector_folds_a_seeded_log(servers: Servers) -> None:
    database = create_database(servers)
    reader = ReconnectingConnection(Secret(database.url), name="reader")
    keys = DataKeys(PostgresDataKeys(reader), SECRETS, CLOCK)
    try:
        assert seed(database, "--runs", "100").returncode == 0
        projections = all_projections(Secret(database.url), keys)
        projecting = asyncio.create_task(project(projections, CLOCK, CLOCK.sleep))
        await until(lambda: are_caught_up(reader))
        projecting.cancel()
        await asyncio.wait({projecting})
        check = run_script("check_invariants.py", env=environment_of(database))
        assert check.returncode == 0, check.stdout
        query = query_of(database)
        assert query("SELECT count(*), count(usage) > 50 FROM runs") == [(100, True)]
        assert query("SELECT min(charged) >= 0, max(charged) > 0 FROM credits") == [(True, True)]
    finally:
        await reader.close()
        drop_database(servers, database)


@pytest.fixture
async def three(servers: Servers) -> AsyncIterator[list[Database]]:
    databases = [create_database(servers) for _ in range(3)]
    yield databases
    for database in databases:
        drop_database(servers, database)


async def test_a_seed_and_a_time_always_make_the_same_runs(three: list[Database]) -> None:
    options = ("--runs", "40", "--accounts", "3", "--until", UNTIL)
    for database, number in zip(three, ("1", "1", "2"), strict=True):
        assert seed(database, *options, "--seed", number).returncode == 0
    one, again, other = [
        [
            (row.run_id, row.version, event.event, event.at)
            for row, event in await recorded(database)
        ]
        for database in three
    ]
    assert one == again
    assert not {run for run, *_ in one} & {run for run, *_ in other}


async def test_what_is_appended_later_goes_on_after_it(database: Database) -> None:
    assert seed(database, "--runs", "30", "--live", "2").returncode == 0
    before = await recorded(database)
    async with open_log(Secret(database.url), SECRETS, CLOCK) as log:
        await Run(log).finish("live")
    live = (await recorded(database))[len(before) :]
    assert [one.position for _, one in live] == [before[-1][1].position + 1 + n for n in range(8)]
    assert all(one.at > before[-1][1].at for _, one in live)

    refused = seed(database, "--runs", "30")
    assert refused.returncode == 1
    assert refused.stderr == (
        "seed_log: the log is not empty; --append puts the runs after what is there\n"
    )
    assert len(await recorded(database)) == len(before) + len(live)

    assert seed(database, "--runs", "30", "--append", "--seed", "2").returncode == 0
    events = [one for _, one in await recorded(database)]
    assert len({one.run_id for one in events}) == 61
    assert all(one.at <= later.at for one, later in pairwise(events))
    assert run_script("check_invariants.py", env=environment_of(database)).returncode == 0


@pytest.mark.crash
def test_of_a_killed_seed_whole_batches_stay_and_more_can_follow(database: Database) -> None:
    query = query_of(database)
    options = ("--runs", "6000", "--workers", "1", "--content-bytes", "20")
    with started_script(
        "seed_log.py", *options, env=environment_of(database, owner=True)
    ) as script:
        until_sync(lambda: query("SELECT count(*) FROM stored_events")[0][0], timeout_seconds=30.0)
        script.kill()
        script.wait()
    others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'runledger seed'"
    until_sync(lambda: query(others) == [(0,)])
    ((events,),) = query("SELECT count(*) FROM stored_events")
    ((runs,),) = query("SELECT count(*) FROM run_heads")
    assert 0 < events < 54000
    assert (events % 18000, runs * 9) == (0, events)
    assert query("SELECT max(notification_id) FROM stored_events") == [(events,)]

    assert seed(database, "--runs", "20", "--append").returncode == 0
    check = run_script("check_invariants.py", "--at-rest", env=environment_of(database))
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--runs", "0"), 2, "it takes 1 to 100000000"),
        (("--runs", "10", "--until", "noon"), 2, "it takes a time such as"),
        (("--runs", "10", "--until", "2026-01-31T12:00:00"), 2, "with its zone"),
        (("--runs", "10", "--live", "11"), 1, "11 of 10 runs cannot be live"),
    ],
)
def test_bad_options_are_told_in_a_sentence(
    database: Database, options: tuple[str, ...], code: int, says: str
) -> None:
    done = seed(database, *options)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert query_of(database)("SELECT count(*) FROM stored_events, accounts") == [(0,)]


def test_without_the_owners_address_or_with_the_services_role_nothing_is_seeded(
    database: Database,
) -> None:
    env = environment_of(database, owner=True)
    admin = env.pop("RUNLEDGER_ADMIN_DATABASE_URL")
    done = run_script("seed_log.py", "--runs", "10", env=env)
    assert done.returncode == 2
    assert "RUNLEDGER_ADMIN_DATABASE_URL is not set" in done.stderr
    done = run_script(
        "seed_log.py", "--runs", "10", env=env | {"RUNLEDGER_ADMIN_DATABASE_URL": database.url}
    )
    assert done.returncode == 1
    assert "refuses" in done.stderr
    assert admin not in done.stderr
    assert query_of(database)("SELECT count(*) FROM stored_events, accounts") == [(0,)]
