"""Views held against the log they were folded from."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from runs_domain.ids import AccountId, ChatId, RunId
from runs_domain.read_models import MessageRow, RunSummary, messages_after, summarize
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.messages_view import messages_of_chat
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.projection import Projection, checkpoints
from runs_domain.storage.runs_view import PAGE_ROWS_MAX, page
from runs_domain.storage.view import Row
from runs_domain.storage.views import all_views
from workers.projector import project

NEVER_BACK = """
CREATE FUNCTION never_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.position < OLD.position THEN
        RAISE EXCEPTION 'view % jumps from % back to %', NEW.name, OLD.position, NEW.position;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER never_back BEFORE UPDATE ON checkpoints FOR EACH ROW EXECUTE FUNCTION never_back()
"""
"""Put on a database, whatever would make a view older than it was fails."""

Place = tuple[RunId, AccountId, ChatId]


async def shown(
    connection: ReconnectingConnection, log: PostgresEventLog, place: Place
) -> tuple[RunSummary | None, tuple[MessageRow, ...]]:
    """The run's row and its messages, as the views have them."""
    run_id, account_id, chat_id = place
    rows = await page(connection, account_id, limit=PAGE_ROWS_MAX, chat_id=chat_id)
    messages = await messages_of_chat(connection, log.data_keys, account_id, chat_id)
    return (
        next((row for row in rows if row.run_id == run_id), None),
        tuple(row for row in messages if row.run_id == run_id),
    )


async def folded(
    log: PostgresEventLog, place: Place
) -> tuple[RunSummary | None, tuple[MessageRow, ...]]:
    """The same, from the log."""
    stream = await log.read(place[0])
    return summarize(stream), messages_after(stream)


async def rows_held(
    connection: ReconnectingConnection, log: PostgresEventLog, run_id: RunId
) -> dict[str, list[Row]]:
    """What each view has of the run, row by row in the order of its key, by the view's name."""
    held = {}
    for view in all_views():
        rows = await connection.fetch(
            f"SELECT {', '.join(view.columns)} FROM {view.name} WHERE run_id = %s"  # noqa: S608
            f" ORDER BY {', '.join(view.key)}",
            (run_id,),
        )
        account = list(view.columns).index("account_id")
        keys = await log.data_keys.for_reading(row[account] for row in rows)
        held[view.name] = [view.comparable(row, keys) for row in rows]
    return held


async def rows_folded(log: PostgresEventLog, run_id: RunId) -> dict[str, list[Row]]:
    """The same, from the log."""
    stream = await log.read(run_id)
    keys = await log.data_keys.for_reading(one.subject for one in stream)
    return {
        view.name: [view.comparable(row, keys) for row in view.rows_of(stream, keys)]
        for view in all_views()
    }


@asynccontextmanager
async def projecting(some: Sequence[Projection]) -> AsyncIterator[asyncio.Task[None]]:
    """Beside the block; whatever ends it before is an error."""
    clock = SystemClock()
    task = asyncio.create_task(project(some, clock, clock.sleep))
    try:
        yield task
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def are_caught_up(connection: ReconnectingConnection) -> bool:
    """Every view has taken the last event of the log."""
    ((last,),) = await connection.fetch(
        "SELECT coalesce(max(notification_id), 0) FROM stored_events"
    )
    return all(one.position == last for one in await checkpoints(connection))
