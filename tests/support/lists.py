"""The RunLists port's twin: the same lists by folding every stream of a log in memory."""

from uuid import UUID

from runs_domain.ids import ChatId, RunId
from runs_domain.read_models import RunSummary, summarize
from runs_domain.run_lists_port import ListPage, ListQuery, RunLists
from runs_domain.storage.memory import MemoryEventLog


class FoldedLists(RunLists):
    """Away when its log is; `behind_seconds` is what a page says."""

    def __init__(self, log: MemoryEventLog) -> None:
        self._log = log
        self.behind_seconds = 0.0

    async def page(self, query: ListQuery) -> ListPage:
        await self._log.heads_of_chat(ChatId(UUID(int=0)))  # raises when the log is away
        rows = [await self._row(run_id) for run_id in self._log._heads]
        wanted = [row for row in rows if row is not None and _is_wanted(row, query)]
        wanted.sort(key=lambda row: row.requested_position, reverse=True)
        return ListPage(rows=tuple(wanted[: query.limit]), behind_seconds=self.behind_seconds)

    async def _row(self, run_id: RunId) -> RunSummary | None:
        return summarize(await MemoryEventLog.read_outline(self._log, run_id))


def _is_wanted(row: RunSummary, query: ListQuery) -> bool:
    return (
        row.account_id == query.account_id
        and query.run_id in (None, row.run_id)
        and query.status in (None, row.status)
        and query.chat_id in (None, row.chat_id)
        and (query.before is None or row.requested_position < query.before)
    )
