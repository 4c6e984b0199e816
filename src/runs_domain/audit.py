"""Whether a stream that is in the log keeps the invariants: events in, violations out.

The rules ask nothing of `decide`: they read what happened, so that a fault in the code that wrote
it cannot hide itself. Each is one invariant of docs/invariants.md (`audit_rules`: the stream by
itself; `audit_rows`: the rows beside it), and a stream is given to all of them an event at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import ClassVar, Final

from runs_domain.events import Struct
from runs_domain.ids import AccountId, KeyId, RunId
from runs_domain.ledger import LedgerEntry
from runs_domain.ports import Head, Recorded
from runs_domain.read_models import MessageRow, RunSummary
from runs_domain.sandbox_rows import SandboxRow
from runs_domain.state import INITIAL, RunState, evolve

REPLAYS: Final = "10"
"""The rule of an event that cannot be read or folded; nothing more can be said of its stream."""
LEAKS: Final = "6"
"""The rule that is about bytes (`leaks`), not about events."""


class Violation(Struct, frozen=True):
    rule: str
    run_id: RunId | None
    sentence: str
    """What is wrong and at which version; never any content."""


class KeyFacts(Struct, frozen=True):
    """A row of `api_keys` that belongs to a run."""

    key_id: KeyId
    account_id: AccountId
    ephemeral: bool
    revoked_at: datetime | None


class Rows(Struct, frozen=True):
    """What the database holds of one run beside its stream."""

    head: Head | None = None
    keys: tuple[KeyFacts, ...] = ()
    summary: RunSummary | None = None
    messages: tuple[MessageRow, ...] | None = ()
    """None: one of them cannot be opened."""
    entries: tuple[LedgerEntry, ...] = ()
    sandbox: SandboxRow | None = None


class Step(Struct, frozen=True):
    """One event, and the state on both sides of it."""

    before: RunState
    recorded: Recorded
    after: RunState


class End(Struct, frozen=True):
    """The stream as far as it goes."""

    state: RunState
    last: Recorded
    rows: Rows


class Rule:
    """One for each stream: it may remember what it has seen. What it returns are sentences."""

    name: ClassVar[str]
    """The invariant's number, or a word."""

    def take(self, step: Step) -> Iterable[str]:  # noqa: ARG002 - for those that need it
        """What this event breaks."""
        return ()

    def end(self, end: End) -> Iterable[str]:  # noqa: ARG002 - for those that need it
        """What the whole stream breaks."""
        return ()


class StreamAudit:
    """One stream: `take` its events in order, then `end`. Memory: the run's state."""

    def __init__(self, run_id: RunId, rules: Sequence[Rule]) -> None:
        self.run_id = run_id
        self.broken = False
        """An event could not be folded: the rest of the stream means nothing."""
        self._rules = rules
        self._state = INITIAL
        self._last: Recorded | None = None

    def take(self, recorded: Recorded) -> Iterator[Violation]:
        if self.broken:
            return
        try:
            after = evolve(self._state, recorded.event)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            yield self.unreadable(f"version {recorded.version}: {type(error).__name__}")
            return
        step = Step(before=self._state, recorded=recorded, after=after)
        self._state, self._last = after, recorded
        for rule in self._rules:
            yield from self._violations(rule, rule.take(step))

    def unreadable(self, sentence: str) -> Violation:
        """For an event that is no event: whoever reads the log found it."""
        self.broken = True
        return Violation(rule=REPLAYS, run_id=self.run_id, sentence=sentence)

    def end(self, rows: Rows) -> Iterator[Violation]:
        if self.broken or self._last is None:
            return
        end = End(state=self._state, last=self._last, rows=rows)
        for rule in self._rules:
            yield from self._violations(rule, rule.end(end))

    def _violations(self, rule: Rule, sentences: Iterable[str]) -> Iterator[Violation]:
        for sentence in sentences:
            yield Violation(rule=rule.name, run_id=self.run_id, sentence=sentence)
