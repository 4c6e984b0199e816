"""Views held against the log they were folded from."""

from runs_domain.ids import AccountId, ChatId, RunId
from runs_domain.read_models import MessageRow, RunSummary, messages_after, summarize
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.messages_view import messages_of_chat
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.projection import checkpoints
from runs_domain.storage.runs_view import PAGE_ROWS_MAX, page

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


async def are_caught_up(connection: ReconnectingConnection) -> bool:
    """Every view has taken the last event of the log."""
    ((last,),) = await connection.fetch(
        "SELECT coalesce(max(notification_id), 0) FROM stored_events"
    )
    return all(one.position == last for one in await checkpoints(connection))
