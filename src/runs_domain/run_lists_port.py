"""The RunLists port: what an account's runs look like in a list."""

from typing import Protocol

from runs_domain.events import Struct
from runs_domain.ids import AccountId, ChatId, Position, RunId
from runs_domain.read_models import RunSummary
from runs_domain.run import Status


class ListQuery(Struct, frozen=True):
    """Of one account: up to `limit` runs, those requested before position `before`."""

    account_id: AccountId
    limit: int
    run_id: RunId | None = None
    """Only this one, for a key that is good for one run."""
    status: Status | None = None
    chat_id: ChatId | None = None
    before: Position | None = None


class ListPage(Struct, frozen=True):
    rows: tuple[RunSummary, ...]
    """Newest first."""
    behind_seconds: float
    """The age of the oldest event that the rows may not show yet; 0 = there is none."""


class RunLists(Protocol):
    async def page(self, query: ListQuery) -> ListPage:
        """Raises StoreUnavailable."""
        ...
