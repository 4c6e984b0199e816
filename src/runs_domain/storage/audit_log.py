"""Reads the whole log a page at a time, its rows beside it, and gives every stream to its audit.

Memory does not grow with the log: a page of events, the rows of the runs on it, and the state of
the one run whose stream goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from runs_domain.audit import LEAKS, KeyFacts, Rows, Rule, StreamAudit, Violation
from runs_domain.audit_rows import row_rules
from runs_domain.audit_rules import stream_rules
from runs_domain.errors import HistoryCorrupt
from runs_domain.ids import AccountId, Position, RunId
from runs_domain.leaks import Leaks
from runs_domain.ports import Head
from runs_domain.read_models import MessageRow
from runs_domain.storage import codec, credits_view, messages_view, runs_view, sandboxes_view
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.connection import Fetches
from runs_domain.storage.lean_reads import LeanReads
from runs_domain.storage.sealing import DataKey, DataKeys

BEFORE_ALL: Final = RunId(UUID(int=0))
PAGE_EVENTS_MAX: Final = 1_000
PAGE_BYTES_MAX: Final = 16 * 1024 * 1024
STRAYS_MAX: Final = 100
"""Rows without a stream that are named, of each table."""

_PAGE: Final = """
    SELECT originator_id, originator_version, coalesce(topic, ''), coalesce(state, ''),
           notification_id
    FROM (
        SELECT *, sum(octet_length(state)) OVER (ORDER BY originator_id, originator_version)
            - octet_length(state) AS bytes_before
        FROM stored_events
        WHERE (originator_id, originator_version) > (%b::uuid, %b::bigint)
            AND (%b::uuid IS NULL OR EXISTS (
                SELECT FROM run_heads WHERE run_id = originator_id AND account_id = %b::uuid))
        ORDER BY originator_id, originator_version LIMIT %b::bigint
    ) AS page
    WHERE coalesce(bytes_before, 0) < %b::bigint
    ORDER BY originator_id, originator_version"""
_KEYS: Final = """
    SELECT run_id, key_id, account_id, ephemeral, revoked_at
    FROM api_keys WHERE run_id = ANY(%b::uuid[])"""
_CHECKPOINTS: Final = "SELECT name, position, stopped_position FROM checkpoints"
_STRAYS: Final = {
    table: f"""
    SELECT DISTINCT run_id FROM {table} WHERE run_id IS NOT NULL
        AND (%b::uuid IS NULL OR account_id = %b::uuid)
        AND NOT EXISTS (SELECT FROM stored_events WHERE originator_id = run_id)
    LIMIT {STRAYS_MAX}"""  # noqa: S608 - our own names
    for table in ("run_heads", "api_keys", "runs", "messages", "credits", "sandboxes")
}
_CLEAR: Final = {
    table: f"SELECT count(*) FROM {table} AS row WHERE strpos(row::text, %b::text) > 0"  # noqa: S608
    for table in (
        *("run_heads", "api_keys", "runs", "messages", "credits", "sandboxes"),
        *("checkpoints", "log_receipts", "dead_letters"),
    )
}
_UNBURIED: Final = f"""
    SELECT run_id FROM runs JOIN run_heads AS head USING (run_id)
    WHERE error_code = 'tries_exhausted' AND NOT head.open
        AND (%b::uuid IS NULL OR head.account_id = %b::uuid)
        AND NOT EXISTS (SELECT FROM dead_letters WHERE id = run_id AND reason = error_code)
    LIMIT {STRAYS_MAX}"""  # noqa: S608 - our own number
_ENDS_RULE: Final = "1"
_KEYS_RULE: Final = "5"
_VIEWS_RULE: Final = "8"


@dataclass(slots=True)
class Seen:
    """What was looked at so far."""

    events: int = 0
    runs: int = 0


class LogAudit:
    """`async for violation in LogAudit(…).violations()`. Raises StoreUnavailable."""

    def __init__(
        self,
        snapshot: Fetches,
        data_keys: DataKeys,
        leaks: Leaks,
        *,
        account: AccountId | None = None,
        at_rest: bool = False,
    ) -> None:
        """`at_rest`: nothing is under way, so what has not ended is lost."""
        self.seen = Seen()
        self._snapshot = snapshot
        self._data_keys = data_keys
        self._leaks = leaks
        self._account = account
        self._at_rest = at_rest
        self._reads = LeanReads(snapshot)
        self._checkpoints: dict[str, Position] = {}

    async def violations(self) -> AsyncIterator[Violation]:
        async for violation in self._of_checkpoints():
            yield violation
        async for violation in self._of_streams():
            yield violation
        async for violation in self._of_strays():
            yield violation
        for (run_id,) in await self._snapshot.fetch(_UNBURIED, (self._account, self._account)):
            sentence = "its tries were used up, and it has no dead letter"
            yield Violation(rule=_ENDS_RULE, run_id=run_id, sentence=sentence)
        for canary in self._leaks.canaries:
            for table, query in _CLEAR.items():
                if (await self._snapshot.fetch(query, (canary,)))[0][0]:
                    yield Violation(
                        rule=LEAKS, run_id=None, sentence=f"a canary stands in clear in {table}"
                    )

    async def _of_checkpoints(self) -> AsyncIterator[Violation]:
        for name, position, stopped in await self._snapshot.fetch(_CHECKPOINTS):
            self._checkpoints[name] = position
            if stopped is not None:
                sentence = f"view {name} stands still before position {stopped}"
                yield Violation(rule=_VIEWS_RULE, run_id=None, sentence=sentence)

    async def _of_strays(self) -> AsyncIterator[Violation]:
        for table, query in _STRAYS.items():
            for (run_id,) in await self._snapshot.fetch(query, (self._account, self._account)):
                yield Violation(
                    rule=_KEYS_RULE if table == "api_keys" else _VIEWS_RULE,
                    run_id=run_id,
                    sentence=f"{table} has a row of it, and the log has no event",
                )

    async def _of_streams(self) -> AsyncIterator[Violation]:
        audit: StreamAudit | None = None
        rows: dict[RunId, Rows] = {}
        async for page in self._pages():
            carried = {} if audit is None else {audit.run_id: rows[audit.run_id]}
            rows = carried | await self._rows_of(list({row.run_id for row in page}))
            opened = [(row, _opened(row)) for row in page]
            keys = await self._data_keys.for_reading(
                one.subject for _, one in opened if one is not None and one.sealed
            )
            for row, envelope in opened:
                if audit is None or audit.run_id != row.run_id:
                    for violation in _end(audit, rows):
                        yield violation
                    audit = StreamAudit(row.run_id, self._rules(row.run_id))
                    self.seen.runs += 1
                self.seen.events += 1
                for violation in self._event(audit, row, envelope, keys):
                    yield violation
        for violation in _end(audit, rows):
            yield violation

    async def _pages(self) -> AsyncIterator[list[StoredRow]]:
        after = (BEFORE_ALL, 0)
        while True:
            wanted = (*after, self._account, self._account, PAGE_EVENTS_MAX, PAGE_BYTES_MAX)
            page = [StoredRow(*row) for row in await self._snapshot.fetch(_PAGE, wanted)]
            if not page:
                return
            yield page
            after = (page[-1].run_id, page[-1].version)

    def _rules(self, run_id: RunId) -> tuple[Rule, ...]:
        return (
            *stream_rules(run_id, at_rest=self._at_rest),
            *row_rules(self._checkpoints),
        )

    def _event(
        self,
        audit: StreamAudit,
        row: StoredRow,
        envelope: codec.Envelope | None,
        keys: Mapping[AccountId, DataKey | None],
    ) -> Iterator[Violation]:
        for sentence in self._leaks.found_in(row.state):
            text = f"version {row.version}: {sentence}"
            yield Violation(rule=LEAKS, run_id=row.run_id, sentence=text)
        if audit.broken:
            return
        if envelope is None:
            yield audit.unreadable(f"version {row.version} is not what this system writes")
            return
        try:
            recorded = codec.decode(row, envelope, keys.get(envelope.subject))
        except HistoryCorrupt as error:
            yield audit.unreadable(f"version {row.version}: {type(error).__name__}")
        else:
            yield from audit.take(recorded)

    async def _rows_of(self, run_ids: Sequence[RunId]) -> dict[RunId, Rows]:
        heads = dict(zip(run_ids, await self._heads_of(run_ids), strict=True))
        keys: dict[RunId, list[KeyFacts]] = {}
        for run_id, *facts in await self._snapshot.fetch(_KEYS, (run_ids,)):
            keys.setdefault(run_id, []).append(KeyFacts(*facts))
        summaries = {row.run_id: row for row in await runs_view.rows_of(self._snapshot, run_ids)}
        messages = await self._messages_of(run_ids)
        entries = await credits_view.rows_of(self._snapshot, run_ids)
        sandboxes = await sandboxes_view.rows_of(self._snapshot, run_ids)
        return {
            run_id: Rows(
                head=heads[run_id],
                keys=tuple(keys.get(run_id, ())),
                summary=summaries.get(run_id),
                messages=messages.get(run_id, ()),
                entries=entries.get(run_id, ()),
                sandbox=sandboxes.get(run_id),
            )
            for run_id in run_ids
        }

    async def _heads_of(self, run_ids: Sequence[RunId]) -> list[Head | None]:
        return await asyncio.gather(*map(self._reads.head, run_ids))

    async def _messages_of(
        self, run_ids: Sequence[RunId]
    ) -> Mapping[RunId, tuple[MessageRow, ...] | None]:
        """None for a run with a row that cannot be opened."""
        try:
            rows = await messages_view.rows_of(self._snapshot, self._data_keys, run_ids)
        except HistoryCorrupt:
            if len(run_ids) == 1:
                return {run_ids[0]: None}
            found: dict[RunId, tuple[MessageRow, ...] | None] = {}
            for run_id in run_ids:
                found |= await self._messages_of([run_id])
            return found
        by_run: dict[RunId, list[MessageRow]] = {}
        for row in rows:
            by_run.setdefault(row.run_id, []).append(row)
        return {run_id: tuple(of_run) for run_id, of_run in by_run.items()}


def _opened(row: StoredRow) -> codec.Envelope | None:
    try:
        return codec.open_row(row)
    except HistoryCorrupt:
        return None


def _end(audit: StreamAudit | None, rows: Mapping[RunId, Rows]) -> Iterator[Violation]:
    return iter(()) if audit is None else audit.end(rows[audit.run_id])
