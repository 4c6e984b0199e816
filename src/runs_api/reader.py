"""One reader of one run's stream: live chunks while there are any, the log for all the rest.

The committed frames follow from the log alone, under the same indexes as the live ones, so a
reader may change over at any index. It never changes anything: a run does not know its readers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from runs_api import sse
from runs_api.committed import CommittedFrames
from runs_api.deps import Deps
from runs_api.sent import SentStep
from runs_api.waiting import waiting
from runs_domain import frames
from runs_domain.errors import QueueUnavailable, StoreUnavailable
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import ChunkTail

BATCH_FRAMES: Final = 256
"""Written at once; between batches other requests have their turn."""
HEAD_SECONDS: Final = 1.0
"""How old a head may be while nothing happens."""
WOKEN_HEAD_SECONDS: Final = 0.25
"""The same after a wake that brought no chunk: most likely the run has ended."""
KEEP_ALIVE_SECONDS: Final = 10.0
"""Proxies drop connections that are silent for longer; clients expect a word every 15 s."""
FRAMES_LOST: Final = "The connection to the run was lost. Reload to continue."

FINISH_PREFIX: Final = b'{"type":"finish",'

_logger = logging.getLogger(__name__)


class RunReader:
    """`index` is the first chunk wanted. `still_allowed` is asked at each keep-alive.

    `has_ended`: known beforehand, so that only the log is read.
    """

    def __init__(
        self,
        deps: Deps,
        run_id: RunId,
        index: int,
        still_allowed: Callable[[], Awaitable[bool]],
        *,
        has_ended: bool,
    ) -> None:
        self._deps = deps
        self._heads = deps.heads
        self._run_id = run_id
        self._index = index
        self._still_allowed = still_allowed
        self._has_ended = has_ended
        self._committed = CommittedFrames(deps.log, run_id)
        self._over = False
        self._sent = False
        self._woken = False
        self._step = SentStep()
        self._attempt = Attempt(0)
        """The one that vouched for the live chunks that were sent."""

    def _now(self) -> float:
        return self._deps.clock.monotonic_seconds()

    async def read(self) -> AsyncIterator[bytes]:
        """Whole frames, up to [DONE]; without it when draining, or the key is no longer good."""
        alive_at = self._now()
        with self._heads.watching(self._run_id):
            async with waiting(self._deps, self._run_id) as wait:
                while not self._deps.draining.is_set():
                    sent = False
                    async for batch in self._next():
                        sent = self._sent = True
                        yield batch
                    if self._over:
                        yield sse.DONE
                        return
                    if self._now() - alive_at >= KEEP_ALIVE_SECONDS:
                        alive_at = self._now()
                        if not await self._allowed():
                            return
                        yield sse.KEEP_ALIVE
                    if not sent:
                        self._woken = await wait(HEAD_SECONDS)

    async def _allowed(self) -> bool:
        try:
            return await self._still_allowed()
        except StoreUnavailable:
            return True  # doubt is no "no"; it is asked again at the next keep-alive

    # ------------------------------------------------------------------ what comes next

    async def _next(self) -> AsyncIterator[bytes]:
        """What is there now from the index on; nothing if there is nothing yet."""
        age = WOKEN_HEAD_SECONDS if self._woken else HEAD_SECONDS
        self._woken = False
        try:
            tail = await self._live()
            if tail is None or tail.attempt < max(self._attempt, self._committed.attempt):
                # Nothing live, or written by a worker that has lost the run: the log tells.
                batches = self._catch_up(age)
            elif self._sent and tail.attempt != self._attempt:
                batches = self._change_over(tail.attempt)
            elif tail.frames:
                yield self._taken(tail)
                return
            elif await self._is_live(age):
                return
            else:
                batches = self._catch_up(age)
            async for batch in batches:
                yield batch
        except StoreUnavailable:
            _logger.warning("a stream waits: the store cannot be asked")

    async def _change_over(self, attempt: Attempt) -> AsyncIterator[bytes]:
        """Go on with another attempt's chunks, once the log says that nothing sent was lost."""
        async for batch in self._catch_up(0.0):
            yield batch
        if self._over or self._committed.in_doubt:
            return
        self._attempt = attempt
        async for batch in self._next():
            yield batch

    async def _live(self) -> ChunkTail | None:
        """None = not there, or Redis cannot be asked, or there is no need to."""
        if self._has_ended:
            return None
        try:
            return await self._deps.chunks.read(self._run_id, self._index, count=BATCH_FRAMES)
        except QueueUnavailable:
            return None

    def _taken(self, tail: ChunkTail) -> bytes:
        batch = b"".join(
            sse.encode(tail.first + place, chunk) for place, chunk in enumerate(tail.frames)
        )
        self._step.add(tail.first, tail.frames)
        self._index = tail.first + len(tail.frames)
        self._attempt = tail.attempt
        self._over = tail.frames[-1].startswith(FINISH_PREFIX)
        return batch

    async def _is_live(self, age_seconds_max: float) -> bool:
        head = await self._heads.look(self._run_id, age_seconds_max=age_seconds_max)
        return head is not None and head.live

    async def _catch_up(self, age_seconds_max: float) -> AsyncIterator[bytes]:
        """Frames of the events that were not read yet, as far as they were not sent."""
        head = await self._heads.look(self._run_id, age_seconds_max=age_seconds_max)
        if head is None or head.version <= self._committed.version:
            return
        batch: list[bytes] = []
        told = False
        sent_under = self._attempt if self._sent else None
        news = self._committed.read_on(self._index, sent_under=sent_under, sent=self._step)
        async for index, frame in news:
            batch.append(sse.encode(index, frames.encode(frame)))
            self._index, told = index + 1, True
            if len(batch) == BATCH_FRAMES:
                yield b"".join(batch)
                batch = []
                await asyncio.sleep(0)  # noqa: TID251 - a turn for the others
        # The finish is a run's last frame: who is not told it now waits beyond the end.
        if self._committed.is_lost or (self._committed.has_ended and not told):
            batch.append(_farewell())
        self._over = self._committed.has_ended or self._committed.is_lost
        if batch:
            yield b"".join(batch)


def _farewell() -> bytes:
    """For this connection only: not chunks of the run, so they carry no index."""
    said = (frames.Error(FRAMES_LOST), frames.Finish("error"))
    return b"".join(b"data: %b\n\n" % frames.encode(frame) for frame in said)
