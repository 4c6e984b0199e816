"""The log seen from outside: the stock library, the service's rights, many writers, a tail."""

import asyncio
from contextlib import aclosing
from typing import Any

import psycopg
import pytest

from runs_domain import commands as c
from runs_domain.errors import StaleAttempt
from runs_domain.handle import handle
from runs_domain.ids import Attempt, Position, Version
from runs_domain.ports import Recorded, Stored
from runs_domain.run import fold, status_of
from runs_domain.settings import Secret
from runs_domain.storage import lean_reads
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.lean_reads import STREAMS_PER_QUERY_MAX
from runs_domain.storage.postgres_log import LOOK_UP_SETTINGS, PostgresEventLog, open_log
from runs_domain.storage.recorder import EventMapper, stock_recorder
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database

WRITERS = 16
STREAMS = 6
COMMANDS = 25


async def test_the_stock_library_reads_our_log(database: Database) -> None:
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        run = Run(log)
        await run.finish("read by others")
        ours = await log.read(run.run_id)
        keys = dict(await log.data_keys.for_reading([run.account_id]))
    mapper = EventMapper(keys.get)
    with stock_recorder(Secret(database.url)) as recorder:
        stored = recorder.select_events(run.run_id)
        notifications = recorder.select_notifications(start=1, limit=100)
        ends = recorder.select_notifications(start=1, limit=9, topics=["run.completed.v1"])
        last = recorder.max_notification_id()

    assert [mapper.to_domain_event(one).recorded for one in notifications] == list(ours)
    assert [mapper.to_stored_event(mapper.to_domain_event(one)) for one in stored] == stored
    assert [one.id for one in ends] == [
        one.position for one in ours if one.type == "run.completed.v1"
    ]
    assert last == ours[-1].position
    state = fold([mapper.to_domain_event(one).recorded.event for one in stored])
    assert status_of(state) == "completed"
    assert "read by others" in str(state.parts)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stored_events SET state = state",
        "DELETE FROM stored_events",
        "TRUNCATE stored_events",
        "DROP TABLE stored_events",
        "ALTER TABLE stored_events ADD COLUMN more text",
        "DELETE FROM run_heads",
        "DELETE FROM api_keys",
        "UPDATE account_data_keys SET wrapped = wrapped",
        "DELETE FROM account_data_keys",
        "INSERT INTO accounts VALUES (gen_random_uuid(), 'person', 'me')",
        "INSERT INTO org_members VALUES (gen_random_uuid(), gen_random_uuid())",
        "CREATE TABLE mine (id bigint)",
    ],
)
def test_the_service_s_role_may_not_change_what_was_recorded(
    database: Database, statement: str
) -> None:
    with (
        psycopg.connect(database.url, autocommit=True) as service,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        service.execute(statement.encode())


async def test_many_writers_on_many_connections_leave_no_hole_and_a_tail_misses_nothing(
    database: Database,
) -> None:
    url = Secret(database.url)
    async with (
        open_log(url, SECRETS, SystemClock()) as one,
        open_log(url, SECRETS, SystemClock()) as two,
        open_log(url, SECRETS, SystemClock()) as three,
        open_log(url, SECRETS, SystemClock()) as reader,
    ):
        runs = [Run(one) for _ in range(STREAMS)]
        for run in runs:
            await run.start()
        expected = STREAMS * 4 + WRITERS * COMMANDS
        tail = asyncio.ensure_future(_tail(reader, expected))
        logs = (one, two, three)
        await asyncio.gather(*(_contend(logs[n % len(logs)], runs, n) for n in range(WRITERS)))
        seen = await asyncio.wait_for(tail, timeout=30)

        positions = [recorded.position for recorded in seen]
        assert positions == sorted(set(positions))
        times = [recorded.at for recorded in seen]
        assert times == sorted(times)
        for run in runs:
            stream = await reader.read(run.run_id)
            assert [recorded.version for recorded in stream] == list(range(1, len(stream) + 1))
            assert [recorded for recorded in seen if recorded.run_id == run.run_id] == list(stream)


async def _tail(log: PostgresEventLog, count: int) -> list[Recorded]:
    seen: list[Recorded] = []
    async with aclosing(log.follow(Position(0))) as follower:
        while len(seen) < count:
            seen += await anext(follower)
    return seen


async def _contend(log: PostgresEventLog, runs: list[Run], number: int) -> None:
    """Take runs over that others take over too; a lost race is loaded and decided again."""
    for step in range(COMMANDS):
        run = runs[(number + step) % len(runs)]
        done = False
        while not done:
            attempt = Attempt((await log.head(run.run_id)).version - 2)  # type: ignore[union-attr]
            resume = c.ResumeRun(attempt=attempt, reason="handover")
            try:
                done = bool((await handle(log, run.run_id, resume, run.context)).recorded)
            except StaleAttempt:
                continue


async def test_I_25_two_processes_cannot_both_start_a_run_in_a_chat(database: Database) -> None:
    url = Secret(database.url)
    async with (
        open_log(url, SECRETS, SystemClock()) as one,
        open_log(url, SECRETS, SystemClock()) as two,
    ):
        for _ in range(10):
            first = Run(one)
            second = Run(two, chat_id=first.chat_id)
            results = await asyncio.gather(
                first.do(first.request()), second.do(second.request()), return_exceptions=True
            )
            assert sorted(type(result).__name__ for result in results) == ["ChatBusy", "tuple"]


async def test_invariant_6_content_is_nowhere_in_the_database(database: Database) -> None:
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        run = Run(log)
        await run.finish("canary-91c2 in an answer")
    with psycopg.connect(database.admin_url) as admin:
        tables = [
            name
            for (name,) in admin.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            )
        ]
        assert "stored_events" in tables
        for table in tables:
            rows = admin.execute(f"SELECT * FROM {table}".encode()).fetchall()  # noqa: S608 - from pg_tables
            assert "canary-91c2" not in str(rows)


def test_a_batch_number_is_handled_once(database: Database) -> None:
    """The same call again answers what it came to the first time and changes nothing."""
    nothing = ", ".join(["'{}'"] * 22)
    call = f"SELECT (append_batch('00000000-0000-0000-0000-000000000001', 1, {nothing})).at"
    with psycopg.connect(database.url, autocommit=True) as service:
        first = service.execute(call.encode()).fetchone()
        assert service.execute(call.encode()).fetchone() == first


async def test_how_old_an_open_run_is_the_databases_clock_tells(database: Database) -> None:
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        old, young = Run(log), Run(log)
        for run in (old, young):
            await run.do(run.request())
        with psycopg.connect(database.admin_url) as admin:
            admin.execute(
                "UPDATE run_heads SET updated_at = now() - interval '1 minute' WHERE run_id = %s",
                [old.run_id],
            )
        settled = await log.open_heads(limit=9, min_age_seconds=59.5)

    assert [head.run_id for head in settled] == [old.run_id]


async def test_invariant_12_one_query_fetches_few_streams_however_many_are_asked_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams have megabytes: by hundreds, one answer would fill the memory."""
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        runs = [Run(log) for _ in range(40)]
        for run in runs:
            await run.do(run.request())
        fetch, asked = log._connection.fetch, list[int]()

        async def counted(sql: str, values: Any) -> Any:
            asked.append(len(values[0]))
            return await fetch(sql, values)

        monkeypatch.setattr(log._connection, "fetch", counted)
        streams = await asyncio.gather(*(log.read_outline(run.run_id) for run in runs))

    assert [stream[0].run_id for stream in streams] == [run.run_id for run in runs]
    assert max(asked) <= STREAMS_PER_QUERY_MAX < len(runs)


async def test_a_page_of_a_stream_is_bounded_in_bytes_and_read_by_its_key(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of large events is shorter; only the last page is followed by none."""
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        run = Run(log)
        await run.finish("x" * 2_000)
        whole = await log.read_stored(run.run_id)
        for bytes_max, pages_at_most in ((1, len(whole)), (2_000, len(whole) - 1)):
            monkeypatch.setattr(lean_reads, "STREAM_PAGE_BYTES_MAX", bytes_max)
            pages: list[tuple[Stored, ...]] = []
            while page := await log.read_stored(
                run.run_id, after=Version(sum(map(len, pages))), limit=100
            ):
                pages.append(page)
            assert tuple(one for page in pages for one in page) == whole
            assert 1 < len(pages) <= pages_at_most
        assert len(pages[-1]) > 1
    with psycopg.connect(database.url) as connection:
        for name, value in LOOK_UP_SETTINGS.items():
            connection.execute(f"SET {name} = {value}")
        plan = connection.execute(
            f"EXPLAIN {lean_reads._STREAM_PAGE}".encode(), (run.run_id, 0, 100, 1_000)
        ).fetchall()
    assert "Index Scan using stored_events_pkey" in str(plan)
