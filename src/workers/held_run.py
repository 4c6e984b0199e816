"""The run as this worker holds it: its fold in memory, appended to without being read again."""

import asyncio
import logging
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from runs_domain import commands as c
from runs_domain import events
from runs_domain.errors import (
    IllegalTransition,
    RunNotFound,
    StaleAttempt,
    StoreUnavailable,
    VersionConflict,
)
from runs_domain.events import Event
from runs_domain.frames import FrameCursor, advance, cursor_of, encode
from runs_domain.handle import Stream, advanced, append_of, empty
from runs_domain.ids import Attempt, RunId
from runs_domain.plan import WORKER_LOST
from runs_domain.ports import WORKER_ACTOR, ChunkStream, Clock, Context, EventLog, KeyRow, Recorded
from runs_domain.run import FIRST_ATTEMPT, RunState, decide, evolve
from workers.chunk_writer import CHUNKS_KEPT_SECONDS, ChunkWriter
from workers.retry_budget import RetryBudget, RetryLimits

logger = logging.getLogger(__name__)

CONFLICTS_MAX: Final = 16
"""Appends of others that one append of ours gives way to before it gives up."""
STORE_PATIENCE_SECONDS: Final = 60.0
"""How long a held run waits for PostgreSQL before its job is left to be redelivered."""
STORE_RETRY_SECONDS: Final = 0.25


class HeldRun:
    """State, place in the stream and attempt of one run, and its outgoing frames."""

    def __init__(
        self,
        run_id: RunId,
        log: EventLog,
        chunks: ChunkStream,
        clock: Clock,
        *,
        worker_id: str,
        stopping: asyncio.Event | None = None,
        retry_limits: RetryLimits | None = None,
        chunks_kept_seconds: int = CHUNKS_KEPT_SECONDS,
    ) -> None:
        """`worker_id` is this process's alone: it tells our events from a rival's equal ones."""
        self.run_id = run_id
        self.attempt: Attempt = FIRST_ATTEMPT
        self.cursor: FrameCursor = cursor_of(run_id)
        self.holding = False
        """False until this worker is the run's: before, others may still append to it."""
        self.interrupt = asyncio.Event()
        """Set when the step in hand must be cut short: a cancel is in the log, or the run is
        another worker's, or its key is gone. `catch_up` and `key_lost` say which."""
        self.key_lost = False
        self.last_error = WORKER_LOST
        """What ended the try before this one, as far as anybody could tell."""
        self.stopping = stopping or asyncio.Event()
        """Set when this process is to end: begin nothing more."""
        self.retries = RetryBudget(retry_limits or RetryLimits())
        self.writer = ChunkWriter(
            *(chunks, run_id, clock, self.interrupt, self.confirm),
            kept_seconds=chunks_kept_seconds,
        )
        self._log = log
        self._clock = clock
        self._actor = WORKER_ACTOR + worker_id
        self._stream: Stream = empty(run_id)
        self._call_due_at: datetime | None = None
        self._correlation = str(run_id)

    @property
    def state(self) -> RunState:
        return self._stream.state

    @property
    def requested(self) -> events.Requested:
        if self.state.requested is None:
            raise RunNotFound(f"run {self.run_id} has no events")
        return self.state.requested

    @property
    def call_due_at(self) -> datetime:
        """When the event came that the next model call follows from: the same for each worker."""
        if self._call_due_at is None:
            raise IllegalTransition("no model is called before the run has started")
        return self._call_due_at

    # ---------------------------------------------------------------------------- reading

    async def reload(self) -> tuple[Recorded, ...]:
        """Fold what the log has beyond our version; returns those events."""
        newer = await self._log.read(self.run_id, after=self.state.version)
        self._take(newer)
        return newer

    async def catch_up(self) -> None:
        """Read what others appended; raises StaleAttempt if one of them holds the run now."""
        self._refuse_if_anothers(await self.reload())
        if self.writer.lost:
            raise StaleAttempt("a higher attempt writes the run's chunks")

    async def confirm(self) -> None:
        """Raises StaleAttempt if by the log another worker holds the run now.

        Takes in nothing, so that it may run beside an append in hand.
        """
        self._refuse_if_anothers(await self._log.read(self.run_id, after=self.state.version))

    def _refuse_if_anothers(self, newer: Sequence[Recorded]) -> None:
        """Raises StaleAttempt if by our state, or by `newer` events, another worker has the run."""
        resumed = [one.event.attempt for one in newer if isinstance(one.event, events.Resumed)]
        holder = max([self.state.attempt, *resumed])
        if holder != self.attempt:
            raise StaleAttempt(f"attempt {holder} holds the run now")
        if self.holding and any(self._is_a_rivals(entry) for entry in newer):
            raise StaleAttempt(f"another worker drives the run as attempt {self.attempt}")

    def _is_a_rivals(self, entry: Recorded) -> bool:
        return entry.actor.startswith(WORKER_ACTOR) and entry.actor != self._actor

    def _take(self, recorded: Sequence[Recorded], *, sent: int = 0) -> None:
        if not recorded:
            return
        chunks: list[bytes] = []
        for entry in recorded:
            frames, self.cursor = advance(self.cursor, entry.event)
            chunks += [encode(frame) for frame in frames]
            if _leads_to_a_call(entry.event):
                self._call_due_at = entry.at
            if not self.holding:
                self.retries.inherit(entry.event)
        self._stream = advanced(self._stream, recorded)
        self._correlation = recorded[-1].correlation
        if self.holding:
            self.writer.push(chunks[sent:])
            self.writer.commit(self.cursor.next_index)

    # ---------------------------------------------------------------------------- writing

    async def append(self, *commands: c.Command, mint: KeyRow | None = None, sent: int = 0) -> None:
        """Decide each command after the one before, append all their events together, then send
        their frames but the first `sent`, which went out live.

        What somebody else appended meanwhile is read first and everything is decided anew, so a
        refusal is always about the newest state.
        """
        doubtful: tuple[Event, ...] = ()
        conflicts, deadline = 0, math.inf
        while True:
            new_events = self._decide(commands)[1]
            if not new_events:
                return
            append = append_of(self._stream, new_events, self._context(), mint=mint)
            try:
                self._take(await self._log.append(append), sent=sent)
            except VersionConflict:
                conflicts += 1
                if await self._has_landed(doubtful, sent):
                    return
                if conflicts > CONFLICTS_MAX:
                    raise
                await self.catch_up()
            except StoreUnavailable:
                doubtful = new_events
                now = self._clock.monotonic_seconds()
                deadline = min(deadline, now + STORE_PATIENCE_SECONDS)
                if now >= deadline:
                    raise
                logger.warning("run %s waits for the event log", self.run_id)
                await self._clock.sleep(STORE_RETRY_SECONDS)
            else:
                return

    def _decide(self, commands: Sequence[c.Command]) -> tuple[RunState, tuple[Event, ...]]:
        state = self.state
        decided: list[Event] = []
        for command in commands:
            for event in decide(state, command):
                state = evolve(state, event)
                decided.append(event)
        return state, tuple(decided)

    def preview(self, *commands: c.Command) -> RunState:
        """The state that `append(*commands)` would give now."""
        return self._decide(commands)[0]

    def _context(self) -> Context:
        return Context(
            actor=self._actor,
            subject=self.requested.account_id,
            correlation=self._correlation,
            causation=f"{self.run_id}:{self.state.version}",
            attempt=self.attempt,
        )

    async def _has_landed(self, doubtful: tuple[Event, ...], sent: int) -> bool:
        """Whether our events whose append ended in doubt are in the log after all: then they are
        taken as the answer that was lost."""
        if not doubtful:
            return False
        newer = await self._log.read(self.run_id, after=self.state.version)
        ours = newer[: len(doubtful)]
        if any(entry.actor != self._actor for entry in ours):
            return False
        if tuple(entry.event for entry in ours) != doubtful:
            return False
        self._take(ours, sent=sent)
        return True


def _leads_to_a_call(event: Event) -> bool:
    """What an interrupted step leaves is never sent to a model: the call after it is the same."""
    match event:
        case events.Started():
            return True
        case events.MessagePersisted(interrupted=interrupted):
            return not interrupted
        case _:
            return False
