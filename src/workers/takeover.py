"""How a worker comes to hold a run: the first one, or one after a lost or stopped worker."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from runs_domain import commands as c
from runs_domain import frames as wire
from runs_domain import plan
from runs_domain.closing import OUTCOME_UNKNOWN
from runs_domain.errors import (
    AppendRefused,
    FenceDown,
    IllegalTransition,
    QueueUnavailable,
    RunEnded,
    RunNotFound,
    StaleAttempt,
    StoreUnavailable,
    VersionConflict,
)
from runs_domain.events import ResumeReason
from runs_domain.faults import log_fault
from runs_domain.frames import frames_of
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import WORKER_ACTOR, ChunkStream, ChunkTail, EventLog, Fence, Job, Recorded
from runs_domain.run import FIRST_ATTEMPT, is_live
from runs_domain.step import StepRecorder
from workers.delivery import NotForThisWorker
from workers.held_run import HeldRun

logger = logging.getLogger(__name__)


FENCE_SECONDS_MAX: Final = 0.25
"""How long a run waits for its fence; without one its chunk writer goes on trying."""
UNSERVED_SECONDS_MAX: Final = 3600.0
"""How long after its last event a run waits for a worker with an adapter for its model: longer
than a deploy. Then it fails, rather than hold its chat for ever."""


async def take(
    held: HeldRun,
    job: Job,
    chunks: ChunkStream,
    *,
    redelivered: bool,
    serves: Callable[[str], bool],
    now: datetime,
) -> bool:
    """Read the run; append `resumed` unless this is the first worker. True = resumed.

    The fence goes up before our first append: that append, which is refused once somebody else
    has appended, is then the look into the log that makes the fence good for writing.

    Raises RunNotFound for an unknown run, StaleAttempt when another worker was faster, and
    NotForThisWorker, before anything was appended, when the run needs a model that is not served,
    unless `now` it has waited for one for too long.
    """
    fence = None
    if is_fresh := job.cause == "fresh" and not redelivered:  # at no cost: beside the reading
        fence, past = await asyncio.gather(_raised(held, chunks, FIRST_ATTEMPT), held.reload())
    else:
        past = await held.reload()
    if held.state.requested is None:
        raise RunNotFound(f"run {held.run_id} has no events")
    held.attempt = held.state.attempt
    untouched = held.state.provisioned is None and held.state.version == 1
    if not is_live(held.state):
        held.holding = True
        return False
    if (now - past[-1].at).total_seconds() < UNSERVED_SECONDS_MAX:
        _check_model(held, serves)
    if untouched and is_fresh:
        held.holding, held.writer.fence = True, fence
        held.writer.begin(held.attempt, held.cursor.next_index, written=held.cursor.next_index)
        return False
    reason: ResumeReason = "handover" if job.cause == "handover" and not redelivered else "lost"
    attempt = Attempt(held.state.attempt + 1)
    held.writer.fence = await _raised(held, chunks, attempt)
    try:
        await held.append(c.ResumeRun(attempt=attempt, reason=reason))
    except RunEnded:  # cancelled meanwhile, while it was queued
        held.holding = True
        return False
    held.attempt, held.holding = attempt, True
    _log_takeover(held, reason, past)
    return True


def _check_model(held: HeldRun, serves: Callable[[str], bool]) -> None:
    """While a deploy adds a model, its older half must not fail the runs of the newer half."""
    if isinstance(plan.next_step(held.state), plan.Finish):
        return  # cancelled, say: any worker can end it
    model = held.requested.model
    if not serves(model):
        raise NotForThisWorker(f"no adapter of this worker serves {model!r}")


def _log_takeover(held: HeldRun, reason: ResumeReason, past: Sequence[Recorded]) -> None:
    actors = [one.actor for one in past if one.actor.startswith(WORKER_ACTOR)]
    before = actors[-1].removeprefix(WORKER_ACTOR) if actors else "(none that wrote to it)"
    level, what = (
        (logging.WARNING, "was lost") if reason == "lost" else (logging.INFO, "handed it over")
    )
    text = "took over run %s as attempt %d: its worker %s %s"
    logger.log(level, text, held.run_id, held.attempt, before, what)


async def _raised(held: HeldRun, chunks: ChunkStream, attempt: Attempt) -> Fence | None:
    """The run does not wait for a Redis that is away; whose the run is, the log decides."""
    try:
        async with asyncio.timeout(FENCE_SECONDS_MAX):
            return await chunks.raise_attempt(held.run_id, attempt)
    except (QueueUnavailable, TimeoutError, StaleAttempt) as error:
        logger.warning("run %s begins without a fence: %s", held.run_id, type(error).__name__)
        return None


async def recover_stream(held: HeldRun, log: EventLog, chunks: ChunkStream) -> None:
    """Fence the chunk stream, send committed frames that never went out, and persist closed what
    the lost worker had streamed of a step that is not committed."""
    committed = held.cursor.next_index
    tail = await _tail(held, chunks, committed)
    if tail is None:
        held.writer.begin(held.attempt, committed, written=committed)
        return
    there = tail.first + len(tail.frames)
    if tail.first > committed:  # the log has less than was sent: it went back in time
        held.writer.begin(held.attempt, committed, written=committed)
        held.writer.begin_anew(committed)
        return
    if there < committed:
        missing = await _committed_frames(held.run_id, log, there)
        held.writer.begin(held.attempt, there, written=there, frames=missing)
        held.writer.commit(committed)
        return
    sent = tail.frames
    held.writer.begin(held.attempt, committed, written=there, frames=sent)
    try:
        recorder = _recorder_of(held, sent)
        if recorder is not None:
            await held.append(recorder.interrupt(held.attempt, OUTCOME_UNKNOWN), sent=len(sent))
    except VersionConflict:
        raise
    except (
        ValueError,
        LookupError,
        msgspec.MsgspecError,
        AppendRefused,
        IllegalTransition,
    ) as error:
        # Frames that no step of this log can have sent: content was erased, the log went back
        # in time, or another release wrote them. The run goes on as if Redis had lost them.
        log_fault(logger, f"run {held.run_id}: the live tail cannot be kept", error)
        held.writer.begin_anew(committed)


async def _tail(held: HeldRun, chunks: ChunkStream, index: int) -> ChunkTail | None:
    """What lower attempts left from `index` on, behind our fence; None = nothing that is known.

    If Redis was wiped between our fence and `resumed`, a lower attempt may have put up its own
    there and have found itself in the log. So ours is asked for, and put up again if it is gone.
    """
    writer = held.writer
    try:
        if writer.fence is not None:
            try:
                return await chunks.tail(held.run_id, writer.fence, index)
            except FenceDown:
                writer.fence = None
        fence = await chunks.raise_attempt(held.run_id, held.attempt)
        await held.confirm()
        writer.fence = fence
        return await chunks.tail(held.run_id, fence, index)
    except (QueueUnavailable, StoreUnavailable, FenceDown) as error:
        writer.fence = None
        reason = type(error).__name__
        logger.warning("run %s resumes without its live stream: %s", held.run_id, reason)
        return None


async def _committed_frames(run_id: RunId, log: EventLog, start: int) -> list[bytes]:
    stream = await log.read(run_id)
    return [wire.encode(frame) for frame in frames_of(run_id, (r.event for r in stream))][start:]


def _recorder_of(held: HeldRun, sent: tuple[bytes, ...]) -> StepRecorder | None:
    """The lost step, put together again from the frames that it sent."""
    if not sent:
        return None
    recorder = StepRecorder(held.run_id, held.cursor, len(held.state.parts))
    for chunk in sent:
        recorder.replay(wire.decode(chunk))
    return recorder
