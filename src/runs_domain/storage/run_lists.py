"""The RunLists port over the `runs` view, on a connection that cannot write."""

from typing import Final

from typing_extensions import override

from runs_domain.errors import HistoryCorrupt
from runs_domain.read_models import RunSummary
from runs_domain.run_lists_port import ListPage, ListQuery, RunLists
from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.postgres_log import LOOK_UP_SETTINGS
from runs_domain.storage.runs_view import RunsView, page, rows_of
from runs_domain.storage.view_stats import read_behind_seconds

READ_ONLY: Final = {"default_transaction_read_only": "on"}


class PostgresRunLists(RunLists):
    def __init__(self, url: Secret) -> None:
        self._connection = ReconnectingConnection(
            url, name="runledger lists", parameters=LOOK_UP_SETTINGS | READ_ONLY
        )

    async def close(self) -> None:
        await self._connection.close()

    @override
    async def page(self, query: ListQuery) -> ListPage:
        # Before the rows: what was folded meanwhile makes them newer than is told, never older.
        behind_seconds = await self._behind_seconds()
        if query.run_id is not None:
            rows = await rows_of(self._connection, [query.run_id])
            return ListPage(
                rows=tuple(row for row in rows if _is_asked_for(row, query)),
                behind_seconds=behind_seconds,
            )
        rows = await page(
            self._connection,
            query.account_id,
            limit=query.limit,
            status=query.status,
            chat_id=query.chat_id,
            before=query.before,
        )
        return ListPage(rows=rows, behind_seconds=behind_seconds)

    async def _behind_seconds(self) -> float:
        seconds = await read_behind_seconds(self._connection, RunsView.name)
        if seconds is None:
            raise HistoryCorrupt("an event does not tell its time")
        return seconds


def _is_asked_for(row: RunSummary, query: ListQuery) -> bool:
    return (
        row.account_id == query.account_id
        and query.status in (None, row.status)
        and query.chat_id in (None, row.chat_id)
        and (query.before is None or row.requested_position < query.before)
    )
