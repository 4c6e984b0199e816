"""What operators do with dead letters: retry or drop them.

Each may be done twice, by two people at once, or die half-way. The log's uniqueness is the dedupe
of new runs, the letter's row that of closings; and what was not sent, the reconciler sends.
"""

from typing import Final

from msgspec.structs import asdict

from runs_domain.commands import CancelRun, FailRun, RequestRun
from runs_domain.dead_letters_port import DeadLetter, DeadLetters
from runs_domain.errors import (
    ChatBusy,
    ContentErased,
    HistoryCorrupt,
    LetterRefused,
    QueueUnavailable,
    Refused,
    StaleAttempt,
    UnknownSecretVersion,
    VersionConflict,
)
from runs_domain.events import Failed, Requested, Struct
from runs_domain.handle import advanced, append_of, empty, handle
from runs_domain.ids import RunId, retry_run_id
from runs_domain.ports import Cause, Context, EventLog, Job, JobQueue, Recorded
from runs_domain.run import FIRST_ATTEMPT, INITIAL, RunState, decide, is_live

GIVEN_UP: Final = "The run broke again and again, and an operator gave it up"
ERASED: Final = "its content was erased, so there is nothing to repeat"
UNREADABLE: Final = "this release cannot read the run's history"


class Outcome(Struct, frozen=True):
    sentence: str
    retried_as: RunId | None = None


class DeadLetterDesk:
    """`actor` is the operator, `ops:<name>`: it stands in events and letters."""

    def __init__(self, log: EventLog, letters: DeadLetters, jobs: JobQueue, *, actor: str) -> None:
        self._log = log
        self._letters = letters
        self._jobs = jobs
        self._actor = actor

    async def retry(self, letter: DeadLetter) -> Outcome:
        """A dead run is repeated by a new one; a broken job is sent again. Also of a dropped one.

        Raises LetterRefused, StoreUnavailable.
        """
        if letter.reason == "broken":
            if letter.closed_how == "retried":
                return Outcome(sentence="its job was sent again before")
            await self._letters.close_retried(letter, by=self._actor)
            return Outcome(sentence=f"its job is sent again{await self._send(letter, letter.id)}")
        if letter.retried_as is not None:
            return Outcome(sentence="it was retried before", retried_as=letter.retried_as)
        retried_as = await self._request_again(letter)
        await self._letters.close_retried(letter, by=self._actor, retried_as=retried_as)
        sent = await self._send(letter, retried_as)
        return Outcome(sentence=f"run {retried_as} repeats it{sent}", retried_as=retried_as)

    async def drop(self, letter: DeadLetter) -> Outcome:
        """Close it. A broken run that can still be read is ended, so that its chat is free; then
        it is sent once more, to give back what it holds. Raises LetterRefused, StoreUnavailable.
        """
        if letter.closed_how == "dropped":
            return Outcome(sentence="it was dropped before")
        if letter.closed_how is None and await self._is_repeated(letter):
            retried_as = retry_run_id(letter.id)
            await self._letters.close_retried(letter, by=self._actor, retried_as=retried_as)
            raise LetterRefused(f"run {retried_as} repeats it: a retry came first")
        if letter.closed_how == "retried":
            raise LetterRefused("it was retried before")
        if letter.reason == "tries_exhausted":
            return await self._dropped(letter, "it is dropped")
        return await self._drop_broken(letter)

    async def _drop_broken(self, letter: DeadLetter) -> Outcome:
        try:
            stream = await self._log.read(letter.id)
            state = advanced(empty(letter.id), stream).state
        except (HistoryCorrupt, UnknownSecretVersion):
            left = "so the run stays live, keeps its chat, and is sent no more until it is retried"
            return await self._dropped(letter, f"it is dropped; {UNREADABLE}, {left}")
        if not is_live(state):
            left = "the run has ended, but it may not have given back its sandbox"
            return await self._dropped(letter, f"it is dropped; {left}")
        # Closed first: should this process die now, the job breaks and is buried once more.
        outcome = await self._dropped(letter, "it is dropped, and the run has failed", sent=True)
        await self._end(letter, stream[-1].correlation, state)
        await self._send(letter, letter.id)
        return outcome

    async def _dropped(self, letter: DeadLetter, sentence: str, *, sent: bool = False) -> Outcome:
        withheld = letter.withheld and not sent
        if not await self._letters.close_dropped(letter, by=self._actor, withheld=withheld):
            raise LetterRefused("somebody else closed it meanwhile")
        return Outcome(sentence=sentence)

    # ---------------------------------------------------------------------------- in the log

    async def _request_again(self, letter: DeadLetter) -> RunId:
        retried_as = retry_run_id(letter.id)
        if await self._is_repeated(letter):
            return retried_as  # an earlier retry died after its append, or is doing the same now
        head = await self._log.head(letter.id)
        if head is not None and head.open:
            raise LetterRefused("the run has yet to give back its sandbox: retry in some seconds")
        try:
            command, context = self._repeated(letter, await self._log.read(letter.id))
            new = append_of(empty(retried_as), decide(INITIAL, command), context)
            await self._log.append(new)
        except VersionConflict:
            pass  # somebody was faster, with the same run
        except (HistoryCorrupt, UnknownSecretVersion):
            raise LetterRefused(UNREADABLE) from None
        except ChatBusy:
            raise LetterRefused("another run of its chat is live: retry once it ended") from None
        except ContentErased:
            raise LetterRefused(ERASED) from None
        return retried_as

    async def _is_repeated(self, letter: DeadLetter) -> bool:
        if letter.reason != "tries_exhausted":
            return False
        return await self._log.head(retry_run_id(letter.id)) is not None

    def _repeated(
        self, letter: DeadLetter, stream: tuple[Recorded, ...]
    ) -> tuple[RequestRun, Context]:
        failed = [one.version for one in stream if isinstance(one.event, Failed)]
        requested = stream[0].event if stream else None
        if not isinstance(requested, Requested) or not failed:
            raise LetterRefused("the log has no such failed run")
        if stream[0].erased:
            raise LetterRefused(ERASED)
        same = asdict(requested)  # a command and its event have the same names
        command = RequestRun(**same | {"actor": self._actor, "retry_of": str(letter.id)})
        return command, self._context(letter, stream[0].correlation, failed[0])

    async def _end(self, letter: DeadLetter, correlation: str, state: RunState) -> None:
        command: CancelRun | FailRun = CancelRun(attempt=state.attempt)
        if not state.cancel_requested:
            command = FailRun(attempt=state.attempt, code="internal", sentence=GIVEN_UP)
        context = self._context(letter, correlation, state.version)
        try:
            await handle(self._log, letter.id, command, context)
        except (Refused, StaleAttempt):
            raise LetterRefused("a worker has taken the run meanwhile") from None

    def _context(self, letter: DeadLetter, correlation: str, version: int) -> Context:
        return Context(
            actor=self._actor,
            subject=letter.account_id,
            correlation=correlation,
            causation=f"{letter.id}:{version}",
            attempt=FIRST_ATTEMPT,
        )

    async def _send(self, letter: DeadLetter, run_id: RunId) -> str:
        """What to add to the sentence."""
        cause: Cause = "resent" if run_id == letter.id else "fresh"
        job = Job(kind="run", id=str(run_id), account_id=str(letter.account_id), cause=cause)
        try:
            await self._jobs.send(job)
        except QueueUnavailable:
            return "; Redis is away, so the reconciler will send it"
        return ""
