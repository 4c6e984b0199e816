"""Sends a run's frames to readers as they come. A run never waits for it and never fails by it.

What is not committed yet is kept in memory, so that a Redis that forgot everything gets the open
step again. What is committed stands in the log, where readers find it; a committed frame that
Redis missed is simply not there.

Without a fence of its own nothing is written: after a wipe the writer puts one up, looks into the
log whether the run is still this worker's, and begins the open step anew (decision 0010).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from runs_domain.errors import FenceDown, QueueUnavailable, StaleAttempt, StoreUnavailable
from runs_domain.faults import log_fault
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import ChunkStream, Clock, Fence

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.5
FRAMES_PER_WRITE_MAX: Final = 256
CLOSE_SECONDS_MAX: Final = 1.0
"""How long an ending run waits for its last frames to go out; the log has them anyway."""
CHUNKS_KEPT_SECONDS: Final = 3600
"""How long an ended run's frames stay in Redis, unless a setting says otherwise."""


class ChunkWriter:
    """One run's outgoing frames. `interrupt` is set when a higher attempt has the stream.

    `confirm` looks into the log, and raises StaleAttempt if another worker holds the run.
    """

    def __init__(
        self,
        chunks: ChunkStream,
        run_id: RunId,
        clock: Clock,
        interrupt: asyncio.Event,
        confirm: Callable[[], Awaitable[None]],
        *,
        kept_seconds: int = CHUNKS_KEPT_SECONDS,
    ) -> None:
        self.lost = False
        self.fence: Fence | None = None
        """Ours, and the log was looked into after it was put up; None = to be put up."""
        self._chunks = chunks
        self._run_id = run_id
        self._attempt = Attempt(1)
        self._clock = clock
        self._interrupt = interrupt
        self._confirm = confirm
        self._kept_seconds = kept_seconds
        self._base = 0
        """Index of the first frame in `_frames`."""
        self._frames: list[bytes] = []
        self._written = 0
        """Index of the first frame that Redis has not confirmed."""
        self._committed = 0
        self._restart = False
        """Redis does not have what we thought: begin anew with what is in memory."""
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def begin(
        self, attempt: Attempt, index: int, *, written: int, frames: Sequence[bytes] = ()
    ) -> None:
        """Frames before `index` are committed; Redis has those before `written`.

        `frames` are known ones from `index` on that Redis may have already. Without a fence one
        is put up at once, also if there is nothing to write: it keeps lower attempts out.
        """
        self._attempt = attempt
        self._base = self._committed = index
        self._frames = list(frames)
        self._written = written
        self.push(())
        if self.fence is None:
            self._wake()

    def begin_anew(self, index: int) -> None:
        """Frames before `index` are committed; whatever else Redis has is to be forgotten."""
        self._frames.clear()
        self._base = self._committed = self._written = index
        self._restart = True

    def push(self, frames: Sequence[bytes]) -> None:
        """Frames to send, in order, right after those pushed before."""
        self._frames += frames
        if self._written >= self._base + len(self._frames):
            return
        self._idle.clear()
        self._wake()

    def _wake(self) -> None:
        self._more.set()
        if self._task is None:
            self._task = asyncio.create_task(self._send_all())

    def commit(self, index: int) -> None:
        """Everything before `index` is in the log now."""
        self._committed = index
        self._forget()

    def _forget(self) -> None:
        """Let go of what is committed and sent, or committed and missed."""
        keep_from = self._committed if self._restart else min(self._committed, self._written)
        if keep_from > self._base:
            del self._frames[: keep_from - self._base]
            self._base = keep_from
            self._written = max(self._written, keep_from)

    async def _send_all(self) -> None:
        while not self.lost:
            if self._written >= self._base + len(self._frames):
                self._idle.set()
                if self.fence is not None:
                    self._more.clear()
                    await self._more.wait()
                    continue
            try:
                if self.fence is None:
                    await self._put_up_fence()
                else:
                    await self._send_some(self.fence)
            except StaleAttempt:
                self.lost = True
                self._interrupt.set()
            except FenceDown:
                self.fence, self._restart = None, True
            except (QueueUnavailable, StoreUnavailable) as error:
                if not self._restart:
                    away = type(error).__name__
                    logger.warning("run %s streams to nobody: %s", self._run_id, away)
                await self._pause()
            except Exception as error:  # noqa: BLE001 - a run never fails by its stream
                log_fault(logger, f"run {self._run_id}: sending chunks failed", error)
                await self._pause()
        self._idle.set()

    async def _put_up_fence(self) -> None:
        """In this order: what resumes the run after our look finds our fence, and is above it."""
        fence = await self._chunks.raise_attempt(self._run_id, self._attempt)
        await self._confirm()
        self.fence, self._restart = fence, True

    async def _pause(self) -> None:
        self._restart = True
        self._forget()
        await self._clock.sleep(RETRY_SECONDS)

    async def _send_some(self, fence: Fence) -> None:
        if self._restart:
            self._forget()
            base, frames = self._base, self._frames[:FRAMES_PER_WRITE_MAX]
            # Before the call: what is committed while it is under way must not be let go of.
            self._restart, self._written = False, base
            await self._chunks.restart(self._run_id, fence, base, frames)
            self._written = base + len(frames)
            return
        start = self._written - self._base
        frames = self._frames[start : start + FRAMES_PER_WRITE_MAX]
        if await self._chunks.write(self._run_id, fence, self._written, frames):
            self._written += len(frames)
            self._forget()
        else:
            self._restart = True

    async def close(self, *, ended: bool) -> None:
        """Give the last frames a moment to go out, then stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._idle.wait()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if ended and not self.lost:
            with suppress(QueueUnavailable, StaleAttempt):
                await self._chunks.expire(self._run_id, seconds=self._kept_seconds)
