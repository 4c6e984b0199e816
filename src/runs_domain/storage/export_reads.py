"""Reads an account's events of a span, a page at a time, for whoever carries them away."""

from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from runs_domain.errors import HistoryCorrupt
from runs_domain.events import Struct
from runs_domain.ids import AccountId, Position, RunId, Version
from runs_domain.ports import BEFORE_FIRST
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import Fetches
from runs_domain.storage.export_span import Span

PAGE_SECONDS_MAX: Final = 30.0
PAGE_HEADS_MAX: Final = 256
PAGE_EVENTS_MAX: Final = 2_000
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of stored events; one that is larger is a page by itself."""
SWEEP_POSITIONS_MAX: Final = 2_000_000
"""A range up to this long is searched for runs that have lost their head."""
SWEEP_PAGE_POSITIONS: Final = 50_000
STRAYS_MAX: Final = 100

_ACCOUNT: Final = """
    SELECT EXISTS (SELECT FROM accounts WHERE account_id = %(account)b)
        OR EXISTS (SELECT FROM run_heads WHERE account_id = %(account)b)
        OR EXISTS (SELECT FROM account_data_keys WHERE account_id = %(account)b),
        EXISTS (SELECT FROM account_data_keys
                WHERE account_id = %(account)b AND destroyed_at IS NOT NULL)"""
_COUNT: Final = """
    SELECT count(*) FROM run_heads WHERE account_id = %b AND requested_position <= %b::bigint"""
_HEADS: Final = """
    SELECT requested_position, run_id FROM run_heads
    WHERE account_id = %b AND (requested_position, run_id) > (%b::bigint, %b::uuid)
        AND requested_position <= %b::bigint
    ORDER BY requested_position, run_id LIMIT %b::bigint"""
_EVENTS: Final = """
    SELECT place, run_id, originator_version, topic, state, notification_id
    FROM (
        SELECT place, run_id, event.*, sum(octet_length(state))
            OVER (ORDER BY place, originator_version) - octet_length(state) AS bytes_before
        FROM unnest(%b::uuid[], %b::bigint[]) WITH ORDINALITY AS wanted (run_id, after, place)
        CROSS JOIN LATERAL (
            SELECT originator_version, coalesce(topic, '') AS topic, coalesce(state, '') AS state,
                   notification_id
            FROM stored_events
            WHERE originator_id = run_id AND originator_version > after
                AND notification_id > %b::bigint AND notification_id <= %b::bigint
            ORDER BY originator_version LIMIT %b::bigint
        ) AS event
        ORDER BY place, originator_version LIMIT %b::bigint
    ) AS page
    WHERE bytes_before < %b::bigint
    ORDER BY place, originator_version"""
_STRAYS: Final = """
    SELECT DISTINCT originator_id FROM stored_events
    WHERE notification_id > %(after)b::bigint AND notification_id <= %(to)b::bigint
        AND position(%(subject)b IN state) > 0
        AND NOT EXISTS (SELECT FROM run_heads
            WHERE run_id = originator_id AND account_id = %(account)b
                AND requested_position <= %(through)b::bigint)"""
_FIRST_POSITIONS: Final = """
    SELECT min(notification_id), originator_id FROM stored_events
    WHERE originator_id = ANY(%b::uuid[]) GROUP BY originator_id ORDER BY 1"""


class RunAt(NamedTuple):
    """A run and where its request stands in the log: the order of an export."""

    requested_position: Position
    run_id: RunId


class AccountFacts(Struct, frozen=True):
    known: bool
    erased: bool
    """Its data key was destroyed: nothing that is sealed can be read any more."""


_BEFORE_ALL: Final = RunAt(Position(0), RunId(UUID(int=0)))


async def account_facts(connection: Fetches, account: AccountId) -> AccountFacts:
    ((known, erased),) = await connection.fetch(_ACCOUNT, {"account": account})
    return AccountFacts(known=known, erased=erased)


async def strays(connection: Fetches, account: AccountId, span: Span) -> tuple[RunAt, ...]:
    """Runs with events about the account in the span that `run_heads` does not give: somebody has
    removed or changed the head. In the order of their first events.

    Raises HistoryCorrupt for more than STRAYS_MAX.
    """
    found: set[RunId] = set()
    for after in range(span.after, span.through, SWEEP_PAGE_POSITIONS):
        page = {
            "account": account,
            "subject": f'"subject":"{account}"'.encode(),
            "after": after,
            "to": min(after + SWEEP_PAGE_POSITIONS, span.through),
            "through": span.through,
        }
        found.update(run_id for (run_id,) in await connection.fetch(_STRAYS, page))
        if len(found) > STRAYS_MAX:
            raise HistoryCorrupt(
                f"more than {STRAYS_MAX} runs of the account have lost their heads:"
                " scripts/verify_history.py --all names them"
            )
    return tuple(RunAt(*row) for row in await connection.fetch(_FIRST_POSITIONS, (list(found),)))


class AccountEvents:
    """`async for page in AccountEvents(…).pages()`: by the runs' requests, a run's by version."""

    def __init__(
        self, connection: Fetches, account: AccountId, span: Span, lost: Sequence[RunAt] = ()
    ) -> None:
        """`lost` (see `strays`) are the account's too."""
        self.passed = 0
        """Runs that have been read, those without an event in the span too."""
        self._connection = connection
        self._account = account
        self._span = span
        self._lost = lost

    async def runs(self, *, before: RunAt | None = None) -> int:
        """How many there are to pass. Raises StoreUnavailable, as `pages` does."""
        until = self._span.through if before is None else before.requested_position - 1
        return int((await self._connection.fetch(_COUNT, (self._account, until)))[0][0])

    async def pages(
        self, at: RunAt | None = None, after: Version = BEFORE_FIRST
    ) -> AsyncIterator[list[tuple[RunAt, StoredRow]]]:
        """With `at` it goes on with that run, behind version `after`."""
        runs = [at] if at is not None else await self._runs_after(_BEFORE_ALL)
        while runs:
            left = runs
            while left:
                page = await self._page(left, after)
                if page:
                    yield page
                whole = len(page) < PAGE_EVENTS_MAX and _bytes(page) < PAGE_BYTES_MAX
                place = len(left) if whole else left.index(page[-1][0])
                self.passed += place
                left = left[place:]
                after = page[-1][1].version if left else BEFORE_FIRST
            runs = await self._runs_after(runs[-1])

    async def _runs_after(self, last: RunAt) -> list[RunAt]:
        wanted = (self._account, *last, self._span.through, PAGE_HEADS_MAX)
        found = [RunAt(*row) for row in await self._connection.fetch(_HEADS, wanted)]
        whole = len(found) < PAGE_HEADS_MAX
        lost = [run for run in self._lost if last < run and (whole or run < found[-1])]
        return sorted((*found, *lost))

    async def _page(self, runs: list[RunAt], after: Version) -> list[tuple[RunAt, StoredRow]]:
        wanted = [run.run_id for run in runs]
        afters = [after, *(BEFORE_FIRST for _ in runs[1:])]
        span = (self._span.after, self._span.through)
        limits = (PAGE_EVENTS_MAX, PAGE_EVENTS_MAX, PAGE_BYTES_MAX)
        rows = await self._connection.fetch(_EVENTS, (wanted, afters, *span, *limits))
        return [(runs[place - 1], StoredRow(*row)) for place, *row in rows]


def _bytes(page: list[tuple[RunAt, StoredRow]]) -> int:
    return sum(len(row.state) for _, row in page)
