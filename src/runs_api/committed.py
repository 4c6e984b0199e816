"""A run's frames as the log has them, read on from where the last reading ended."""

from collections.abc import AsyncIterator, Sequence

from runs_api.sent import SentStep
from runs_domain import events, frames
from runs_domain.ids import Attempt, RunId, Version
from runs_domain.ports import BEFORE_FIRST, EventLog
from runs_domain.run import FIRST_ATTEMPT


class CommittedFrames:
    """`version` is the last event that was read.

    `in_doubt` and `is_lost` are about chunks that a reader was sent and that stand in no event
    yet, once another worker has resumed the run. If that worker found them, its next message
    holds them, `interrupted`. If it did not, they are in no history.
    """

    def __init__(self, log: EventLog, run_id: RunId) -> None:
        self._log = log
        self._run_id = run_id
        self._cursor = frames.cursor_of(run_id)
        self.version: Version = BEFORE_FIRST
        self.attempt: Attempt = FIRST_ATTEMPT
        """Whose the run is, as far as the log was read."""
        self.has_ended = False
        self.in_doubt = False
        self.is_lost = False
        self._lost_twice = False
        """Another worker took over while nothing told yet what the one before had found."""

    @property
    def next_index(self) -> int:
        return self._cursor.next_index

    async def read_on(
        self, wanted: int, *, sent_under: Attempt | None, sent: SentStep | None = None
    ) -> AsyncIterator[tuple[int, frames.Frame]]:
        """New frames from index `wanted` on. `sent_under`: the attempt that vouched for those
        before it when they were sent live; None = none were sent.

        Ends early once `is_lost`. Raises StoreUnavailable.
        """
        for recorded in await self._log.read(self._run_id, after=self.version):
            self.version = recorded.version
            first = self.next_index
            made, self._cursor = frames.advance(self._cursor, recorded.event)
            if isinstance(recorded.event, events.Resumed):
                self.attempt = recorded.event.attempt
            if sent_under is not None:
                self._judge(recorded.event, first, wanted, sent_under)
                if self.in_doubt and isinstance(recorded.event, events.MessagePersisted):
                    self.in_doubt = False
                    self.is_lost = not self._holds(recorded.event, made, first, wanted, sent)
                if self.is_lost:
                    return
            for index, frame in enumerate(made, start=first):
                if index >= wanted:
                    yield index, frame
            self.has_ended = isinstance(recorded.event, events.Ending) or self.has_ended

    def _judge(self, event: events.Event, first: int, wanted: int, sent_under: Attempt) -> None:
        match event:
            case events.Resumed() if self.in_doubt:
                self._lost_twice, self.is_lost = True, event.frames_lost > 0
            case events.Resumed() if wanted > first and event.attempt > sent_under:
                self.in_doubt, self._lost_twice = True, False
                self.is_lost = event.frames_lost > 0
            case events.Completed() | events.Failed() | events.Cancelled() if self.in_doubt:
                self.is_lost = True
            case _:
                pass

    def _holds(
        self,
        event: events.MessagePersisted,
        made: Sequence[frames.Frame],
        first: int,
        wanted: int,
        sent: SentStep | None,
    ) -> bool:
        """Whether the event holds what was sent, and no frame that never goes out before it was.

        After two takeovers it may also be what the one in between had begun anew: then only what
        was sent can tell.
        """
        if not event.interrupted or wanted > first + frames.live_length(made):
            return False
        known = None if sent is None else sent.is_in(made, first)
        return not self._lost_twice if known is None else known


async def committed_length(log: EventLog, run_id: RunId) -> int:
    """How many frames the log holds. Raises StoreUnavailable."""
    committed = CommittedFrames(log, run_id)
    async for _ in committed.read_on(0, sent_under=None):
        pass
    return committed.next_index
