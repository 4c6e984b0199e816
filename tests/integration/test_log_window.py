"""The stretch of the log that views share: complete, read once, bounded, never older than asked."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.ids import Position
from runs_domain.settings import Secret
from runs_domain.storage import log_window
from runs_domain.storage.log_window import LogWindow
from runs_domain.storage.postgres_log import PostgresEventLog
from tests.support.log_streams import Run
from tests.support.servers import Database
from tests.support.waiting import until

BEGIN = Position(0)
ALL = 10_000
PACES = ((1,), (ALL,), (5,), (1, 9, 2, 4), (7, 3))
"""Sizes of the batches that readers ask for, again and again."""


@pytest.fixture
async def window(database: Database) -> AsyncIterator[LogWindow]:
    made = LogWindow(Secret(database.url))
    made.join()
    yield made
    await made.leave()


class Reads:
    """Counts the window's queries, and holds the answers back while it is shut."""

    def __init__(self, window: LogWindow, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.open = asyncio.Event()
        self.open.set()
        self._fetch = window._connection.fetch
        monkeypatch.setattr(window._connection, "fetch", self._counted)

    async def _counted(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        rows = await self._fetch(sql, parameters)
        self.count += 1
        await self.open.wait()
        return rows


async def positions(connection: psycopg.AsyncConnection[Any]) -> list[Position]:
    cursor = await connection.execute(
        "SELECT notification_id FROM stored_events ORDER BY notification_id"
    )
    return [position for (position,) in await cursor.fetchall()]


async def some_events(log: PostgresEventLog, database: Database, runs: int = 6) -> list[Position]:
    """Mixed, and with gaps between their positions."""
    await asyncio.gather(*(Run(log).finish() for _ in range(runs)))
    async with await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as owner:
        await owner.execute("SELECT nextval('stored_events_notification_id_seq')")
        await Run(log).start()
        return await positions(owner)


async def walked(window: LogWindow, sizes: Sequence[int], *, until_end: Position) -> list[int]:
    """Every position that a reader comes by."""
    seen: list[int] = []
    place, rounds = BEGIN, itertools.cycle(sizes)
    while place < until_end:
        async with window.after(place, next(rounds)) as part:
            seen += [one.position for one in part.outlines]
            assert [row.position for row in part.rows] == [one.position for one in part.outlines]
            place = part.rows[-1].position
            assert part.goes_on or place == until_end
    return seen


async def test_readers_of_any_pace_get_every_event_once_and_in_order(
    database: Database, log: PostgresEventLog, window: LogWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await some_events(log, database)
    for name, limit in (("STRETCH_EVENTS_MAX", 5), ("KEPT_STRETCHES_MAX", 3)):
        monkeypatch.setattr(log_window, name, limit)

    readers = (walked(window, sizes, until_end=expected[-1]) for sizes in PACES)
    for seen in await asyncio.gather(*readers):
        assert seen == expected


async def test_views_at_one_place_read_the_log_once(
    database: Database, log: PostgresEventLog, window: LogWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await some_events(log, database)
    reads = Reads(window, monkeypatch)

    async def read() -> list[int]:
        async with window.after(BEGIN, ALL) as part:
            return [row.position for row in part.rows]

    assert await asyncio.gather(*(read() for _ in range(4))) == [expected] * 4
    assert reads.count == 1


async def test_an_event_that_was_committed_before_the_question_is_in_the_answer(
    log: PostgresEventLog, window: LogWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks while a read is under way must not be given what that has found."""
    reads = Reads(window, monkeypatch)

    async def read() -> int:
        async with window.after(BEGIN, ALL) as part:
            return len(part.rows)

    reads.open.clear()
    early = asyncio.create_task(read())
    await until(lambda: reads.count)
    run = Run(log)
    await run.start()
    late = asyncio.create_task(read())
    reads.open.set()

    assert await early == 0
    assert await late == run.stream.state.version


async def test_invariant_12_what_is_kept_is_bounded_and_a_large_event_gets_by(
    database: Database, log: PostgresEventLog, window: LogWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 4_000
    monkeypatch.setattr(log_window, "STRETCH_BYTES_MAX", limit // 2)
    monkeypatch.setattr(log_window, "KEPT_BYTES_MAX", limit)
    await Run(log).finish("x" * 3 * limit)
    expected = await some_events(log, database)

    place, seen = BEGIN, list[int]()
    while place < expected[-1]:
        async with window.after(place, ALL) as part:
            seen += [row.position for row in part.rows]
            place = part.rows[-1].position
            rows = sum(len(row.state) for kept in window._kept for row in kept.rows)
            largest = max(kept.size for kept in window._kept)
            assert rows <= max(limit, largest + limit // 2)
    assert seen == expected


async def test_a_reader_that_stands_still_holds_the_others_for_a_moment_alone(
    database: Database, log: PostgresEventLog, window: LogWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await some_events(log, database)
    for name, limit in (("STRETCH_EVENTS_MAX", 5), ("KEPT_STRETCHES_MAX", 2)):
        monkeypatch.setattr(log_window, name, limit)

    async with window.after(BEGIN, ALL) as still:
        others = (walked(window, sizes, until_end=expected[-1]) for sizes in PACES[:2])
        assert await asyncio.gather(*others) == [expected] * 2
        assert [row.position for row in still.rows] == expected[: len(still.rows)]


async def test_readers_that_are_cancelled_take_nothing_from_the_others(
    database: Database, log: PostgresEventLog, window: LogWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await some_events(log, database)
    reads = Reads(window, monkeypatch)

    async def read() -> int:
        async with window.after(BEGIN, ALL) as part:
            return len(part.rows)

    reads.open.clear()
    gone, stays = asyncio.create_task(read()), asyncio.create_task(read())
    await until(lambda: reads.count)
    gone.cancel()
    await asyncio.wait({gone})
    reads.open.set()

    assert await stays == len(expected)


async def test_what_cannot_be_read_ends_a_part_and_then_comes_alone(
    database: Database, log: PostgresEventLog, window: LogWindow
) -> None:
    expected = await some_events(log, database)
    bad = expected[10]
    async with await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as owner:
        await owner.execute(
            "UPDATE stored_events SET state = '{}' WHERE notification_id = %s", [bad]
        )

    async with window.after(BEGIN, ALL) as before:
        assert [row.position for row in before.rows] == expected[:10]
        assert (before.failure, before.goes_on) == (None, True)
    async with window.after(expected[9], ALL) as at:
        assert [row.position for row in at.rows] == [bad]
        assert at.outlines == []
        assert "cannot be read" in str(at.failure)
    async with window.after(bad, ALL) as beyond:  # another release's view has passed it
        assert [row.position for row in beyond.rows] == expected[11:]
        assert beyond.failure is None


async def test_a_read_that_fails_is_told_to_all_who_wait_for_it_and_the_next_one_is_tried(
    database: Database, log: PostgresEventLog, window: LogWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await some_events(log, database)
    fetch = window._connection.fetch

    async def down(*_: Any) -> list[Any]:
        raise StoreUnavailable("down")

    async def read() -> int:
        async with window.after(BEGIN, ALL) as part:
            return len(part.rows)

    monkeypatch.setattr(window._connection, "fetch", down)
    told = await asyncio.gather(read(), read(), return_exceptions=True)
    assert [type(one) for one in told] == [StoreUnavailable] * 2
    monkeypatch.setattr(window._connection, "fetch", fetch)
    assert await read() == len(expected)
