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
from runs_api.waiting import waiting
from runs_domain import frames
from runs_domain.errors import QueueUnavailable, StoreUnavailable
from runs_domain.ids import RunId
from runs_domain.ports import ChunkTail

BATCH_FRAMES: Final = 256
"""Written at once; between batches other requests have their turn."""
HEAD_SECONDS: Final = 1.0
"""How old a head may be while nothing happens."""
WOKEN_HEAD_SECONDS: Final = 0.25
"""The same after a wake that brought no chunk: most likely the run has ended."""
KEEP_ALIVE_SECONDS: Final = 10.0
"""WIRE asks for a comment every 15 s at least."""
READ_GAP_SECONDS_MAX: Final = 2.0
"""Shorter than a lease: in a longer gap another worker may have begun the chunks anew."""
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
        self._suspect = False
        """The live chunks may be another attempt's; the log must say before they are trusted."""
        self._read_at = self._now()

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
            if tail is None:
                async for batch in self._catch_up(age):
                    yield batch
                return
            if self._suspect:
                index = self._index
                async for batch in self._catch_up(0.0):
                    yield batch
                self._suspect = self._committed.in_doubt
                if self._over or self._suspect or self._index != index:
                    return
            if tail.frames:
                yield self._taken(tail)
            elif not await self._is_live(age):
                async for batch in self._catch_up(age):
                    yield batch
        except StoreUnavailable:
            _logger.warning("a stream waits: the store cannot be asked")

    async def _live(self) -> ChunkTail | None:
        """None = not there, or Redis cannot be asked, or there is no need to."""
        if self._has_ended:
            return None
        late = self._now() - self._read_at > READ_GAP_SECONDS_MAX
        try:
            tail = await self._deps.chunks.read(self._run_id, self._index, count=BATCH_FRAMES)
        except QueueUnavailable:
            tail = None
        self._read_at = self._now()
        short = tail is None or tail.first < self._index
        self._suspect = self._suspect or (self._sent and (late or short))
        return tail

    def _taken(self, tail: ChunkTail) -> bytes:
        batch = b"".join(
            sse.encode(tail.first + place, chunk) for place, chunk in enumerate(tail.frames)
        )
        self._index = tail.first + len(tail.frames)
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
        news = self._committed.read_on(self._index, sent_before=self._sent)
        async for index, frame in news:
            batch.append(sse.encode(index, frames.encode(frame)))
            self._index = index + 1
            if len(batch) == BATCH_FRAMES:
                yield b"".join(batch)
                batch = []
                await asyncio.sleep(0)  # noqa: TID251 - a turn for the others
        if self._committed.is_lost:
            batch.append(_farewell())
        self._over = self._committed.has_ended or self._committed.is_lost
        if batch:
            yield b"".join(batch)


def _farewell() -> bytes:
    """For this connection only: not chunks of the run, so they carry no index."""
    said = (frames.Error(FRAMES_LOST), frames.Finish("error"))
    return b"".join(b"data: %b\n\n" % frames.encode(frame) for frame in said)
