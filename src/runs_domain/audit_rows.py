"""The invariants about the rows that stand beside a stream: keys, head, views. See `audit`."""

from collections.abc import Iterable, Iterator, Mapping

from typing_extensions import override

from runs_domain import events
from runs_domain.audit import End, KeyFacts, Rule, Step
from runs_domain.errors import HistoryCorrupt
from runs_domain.ids import Position
from runs_domain.ledger import LedgerEntry, entries_after
from runs_domain.ports import Head
from runs_domain.read_models import MessageRow, RunSummary, messages_after, summarize
from runs_domain.sandbox_rows import SandboxRow, sandbox_after
from runs_domain.state import is_live, is_open, status_of


def row_rules(checkpoints: Mapping[str, Position]) -> tuple[Rule, ...]:
    """`checkpoints`: how far each view has come, by its name; one that is not there is at 0."""

    def of(view: str) -> Position:
        return checkpoints.get(view, Position(0))

    return (
        *(KeyRows(), HeadRow(), RunsRow(of("runs")), MessageRows(of("messages"))),
        *(CreditRows(of("credits")), SandboxesRow(of("sandboxes"))),
    )


class KeyRows(Rule):
    """Invariant 5, as far as rows tell: an ended run's key is dead, a live one's is not."""

    name = "5"

    def __init__(self) -> None:
        self._revoked: dict[str, object] = {}

    @override
    def take(self, step: Step) -> Iterable[str]:
        if isinstance(step.recorded.event, events.KeyRevoked):
            self._revoked[str(step.recorded.event.key_id)] = step.recorded.at
        return ()

    @override
    def end(self, end: End) -> Iterator[str]:
        minted = end.state.key
        if minted is None:
            if end.rows.keys:
                yield "api_keys has a key of it, and none was minted"
            return
        rows = {row.key_id: row for row in end.rows.keys}
        if set(rows) != {minted.key_id}:
            yield f"api_keys has {len(rows)} keys of it, not just the one that was minted"
        if minted.key_id in rows:
            yield from self._row(rows[minted.key_id], end)

    def _row(self, row: KeyFacts, end: End) -> Iterator[str]:
        requested = end.state.requested
        if requested is not None and row.account_id != requested.account_id:
            yield "its key belongs to another account"
        if not row.ephemeral:
            yield "its key does not expire"
        if end.state.ending is None and row.revoked_at is not None:
            yield "it is live, and its key is revoked"
        if end.state.ending is not None and row.revoked_at is None:
            yield "it has ended, and its key is still good"
        revoked_at = self._revoked.get(str(row.key_id), row.revoked_at)
        if row.revoked_at is not None and row.revoked_at != revoked_at:
            yield "its key was revoked at another time than the event says"


class HeadRow(Rule):
    """Invariant 8: `run_heads` is the fold, at any moment."""

    name = "8"

    def __init__(self) -> None:
        self._requested_position = Position(0)

    @override
    def take(self, step: Step) -> Iterable[str]:
        if isinstance(step.recorded.event, events.Requested):
            self._requested_position = step.recorded.position
        return ()

    @override
    def end(self, end: End) -> Iterator[str]:
        requested, head = end.state.requested, end.rows.head
        if requested is None:
            return  # another rule has said so
        if head is None:
            yield "it has no head"
            return
        folded = Head(
            run_id=end.last.run_id,
            account_id=requested.account_id,
            chat_id=requested.chat_id,
            session_id=requested.session_id,
            version=end.last.version,
            status=status_of(end.state),
            live=is_live(end.state),
            open=is_open(end.state),
            head_hash=end.last.hash,
            requested_position=self._requested_position,
            updated_at=end.last.at,
        )
        wrong = [name for name in Head.__struct_fields__ if _differ(head, folded, name)]
        if wrong:
            yield f"its head is not the fold: {', '.join(wrong)}"


class RunsRow(Rule):
    """Invariant 8: the row of the view `runs` is the fold up to the view's checkpoint."""

    name = "8"

    def __init__(self, checkpoint: Position) -> None:
        self._checkpoint = checkpoint
        self._folded: RunSummary | None = None
        self._gap = False

    @override
    def take(self, step: Step) -> Iterable[str]:
        if step.recorded.position <= self._checkpoint and not self._gap:
            try:
                self._folded = summarize([step.recorded], self._folded)
            except HistoryCorrupt:
                self._gap = True  # a hole in the stream, which another rule reports
        return ()

    @override
    def end(self, end: End) -> Iterator[str]:
        row = end.rows.summary
        if self._gap or row == self._folded:
            return
        if row is None or self._folded is None:
            yield f"view runs has {'no' if row is None else 'a'} row of it, against its checkpoint"
            return
        wrong = [name for name in RunSummary.__struct_fields__ if _differ(row, self._folded, name)]
        yield f"its row in view runs is not the fold: {', '.join(wrong)}"


class MessageRows(Rule):
    """Invariant 8: the rows of the view `messages` are the fold up to the view's checkpoint."""

    name = "8"

    def __init__(self, checkpoint: Position) -> None:
        self._checkpoint = checkpoint
        self._folded: dict[int, MessageRow] = {}
        self._assistant: MessageRow | None = None
        self._silent = False
        """Its content was erased, and with it what the rows could be held against."""

    @override
    def take(self, step: Step) -> Iterable[str]:
        self._silent = self._silent or step.recorded.erased
        if step.recorded.position > self._checkpoint or self._silent:
            return ()
        try:
            changed = messages_after([step.recorded], self._assistant)
        except HistoryCorrupt:
            self._silent = True  # it does not begin with its request, which another rule reports
            return ()
        for row in changed:
            self._folded[row.place] = row
        if changed:
            self._assistant = changed[-1]
        return ()

    @override
    def end(self, end: End) -> Iterator[str]:
        if self._silent:
            return
        if end.rows.messages is None:
            yield "a row of it in view messages cannot be opened"
            return
        rows = {row.place: row for row in end.rows.messages}
        for place in sorted(rows.keys() | self._folded.keys()):
            row, folded = rows.get(place), self._folded.get(place)
            if row is None or folded is None:
                has = "no" if row is None else "a"
                yield f"view messages has {has} row {place} of it, against its checkpoint"
            elif row != folded:
                wrong = [
                    name for name in MessageRow.__struct_fields__ if _differ(row, folded, name)
                ]
                yield f"its row {place} in view messages is not the fold: {', '.join(wrong)}"


class CreditRows(Rule):
    """Invariant 8: the ledger's entries are the fold up to the checkpoint of the view `credits`."""

    name = "8"

    def __init__(self, checkpoint: Position) -> None:
        self._checkpoint = checkpoint
        self._folded: list[LedgerEntry] = []

    @override
    def take(self, step: Step) -> Iterable[str]:
        if step.recorded.position <= self._checkpoint:
            held = sum(entry.reserved for entry in self._folded)
            self._folded += entries_after([step.recorded], held)
        return ()

    @override
    def end(self, end: End) -> Iterator[str]:
        rows = {entry.version: entry for entry in end.rows.entries}
        folded = {entry.version: entry for entry in self._folded}
        for version in sorted(rows.keys() | folded.keys()):
            if rows.get(version) != folded.get(version):
                yield f"the entry of version {version} in view credits is not the fold"


class SandboxesRow(Rule):
    """Invariant 8: the row of the view `sandboxes` is the fold up to the view's checkpoint."""

    name = "8"

    def __init__(self, checkpoint: Position) -> None:
        self._checkpoint = checkpoint
        self._folded: SandboxRow | None = None
        self._gap = False

    @override
    def take(self, step: Step) -> Iterable[str]:
        if step.recorded.position <= self._checkpoint and not self._gap:
            try:
                self._folded = sandbox_after([step.recorded], self._folded)
            except HistoryCorrupt:
                self._gap = True  # it does not begin with its request, which another rule reports
        return ()

    @override
    def end(self, end: End) -> Iterator[str]:
        if not self._gap and end.rows.sandbox != self._folded:
            yield "its row in view sandboxes is not the fold"


def _differ(row: object, folded: object, name: str) -> bool:
    return bool(getattr(row, name) != getattr(folded, name))
