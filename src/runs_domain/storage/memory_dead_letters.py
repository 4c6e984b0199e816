"""`DeadLetters` over a dict, for tests alone; it withholds heads of a `MemoryEventLog`."""

from msgspec.structs import replace
from typing_extensions import override

from runs_domain.dead_letters_port import Burial, DeadLetter, DeadLetters, Reason
from runs_domain.ids import RunId
from runs_domain.ports import Clock, JobKind
from runs_domain.storage.memory import MemoryEventLog


class MemoryDeadLetters(DeadLetters):
    def __init__(self, log: MemoryEventLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self.letters: dict[tuple[RunId, Reason], DeadLetter] = {}

    @override
    async def bury(self, burial: Burial) -> bool:
        head = await self._log.head(burial.id)
        known = self.letters.get((burial.id, burial.reason))
        if head is None or (known is not None and (known.reason != "broken" or known.withheld)):
            return False
        self._put(
            DeadLetter(
                kind=burial.kind,
                id=burial.id,
                reason=burial.reason,
                account_id=head.account_id,
                last_error=burial.last_error,
                tries=burial.tries,
                buried_at=self._clock.now(),
                withheld=burial.reason == "broken",
                closed_at=None,
                closed_how=None,
                closed_by=None,
                retried_as=None,
            )
        )
        return True

    @override
    async def is_withheld(self, kind: JobKind, run_id: RunId) -> bool:
        return run_id in self._log.withheld

    @override
    async def letters_of(self, run_id: RunId) -> tuple[DeadLetter, ...]:
        found = (letter for letter in self.letters.values() if letter.id == run_id)
        return tuple(sorted(found, key=lambda letter: letter.reason))

    @override
    async def close_retried(
        self, letter: DeadLetter, *, by: str, retried_as: RunId | None = None
    ) -> None:
        known = self.letters[letter.id, letter.reason]
        if known.closed_how != "retried":
            self._put(
                replace(
                    known,
                    closed_at=self._clock.now(),
                    closed_how="retried",
                    closed_by=by,
                    retried_as=retried_as,
                    withheld=False,
                )
            )

    @override
    async def close_dropped(self, letter: DeadLetter, *, by: str, withheld: bool) -> bool:
        known = self.letters[letter.id, letter.reason]
        if known.closed_at is not None:
            return False
        now = self._clock.now()
        self._put(
            replace(known, closed_at=now, closed_how="dropped", closed_by=by, withheld=withheld)
        )
        return True

    def _put(self, letter: DeadLetter) -> None:
        self.letters[letter.id, letter.reason] = letter
        if letter.withheld:
            self._log.withheld.add(letter.id)
        elif letter.reason == "broken":
            self._log.withheld.discard(letter.id)
