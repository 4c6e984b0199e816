"""One reader of one run's stream: live chunks while there are any, the log for all the rest.

The committed frames follow from the log alone, under the same indexes as the live ones, so a
reader may change over at any index. It never changes anything: a run does not know its readers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Literal

from runs_api import sse
from runs_api.deps import Deps
from runs_domain import events, frames
from runs_domain.errors import QueueUnavailable, StoreUnavailable
from runs_domain.ids import RunId, Version
from runs_domain.ports import BEFORE_FIRST, ChunkTail

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

Wait = Callable[[float], Awaitable[None]]

_logger = logging.getLogger(__name__)


class RunReader:
    """`index` is the first chunk wanted. `still_allowed` is asked at each keep-alive."""

    def __init__(
        self,
        deps: Deps,
        run_id: RunId,
        index: int,
        still_allowed: Callable[[], Awaitable[bool]],
    ) -> None:
        self._deps = deps
        self._heads = deps.heads
        self._run_id = run_id
        self._index = index
        self._still_allowed = still_allowed
        self._cursor = frames.cursor_of(run_id)
        """Where the part of the log that was read ends."""
        self._version: Version = BEFORE_FIRST
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
            async with self._waiting() as wait:
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
                        await wait(HEAD_SECONDS)

    async def _allowed(self) -> bool:
        try:
            return await self._still_allowed()
        except StoreUnavailable:
            return True  # doubt is no "no"; it is asked again at the next keep-alive

    # ------------------------------------------------------------------ what comes next

    async def _next(self) -> AsyncIterator[bytes]:
        """What is there now from the index on; nothing if there is nothing yet."""
        woken, self._woken = self._woken, False
        try:
            tail = await self._live()
            if tail is not None and self._suspect:
                self._suspect = False
                async for batch in self._committed(age_seconds_max=0.0):
                    yield batch
            elif tail is not None and tail.frames:
                yield self._taken(tail)
            else:
                age = WOKEN_HEAD_SECONDS if woken else HEAD_SECONDS
                async for batch in self._rest(age, missing=tail is None):
                    yield batch
        except StoreUnavailable:
            _logger.warning("a stream waits: the store cannot be asked")

    async def _live(self) -> ChunkTail | None:
        """None = not there, or Redis cannot be asked."""
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

    async def _rest(self, age_seconds_max: float, *, missing: bool) -> AsyncIterator[bytes]:
        head = await self._heads.look(self._run_id, age_seconds_max=age_seconds_max)
        if missing or (head is not None and not head.live):
            async for batch in self._committed(age_seconds_max):
                yield batch

    async def _committed(self, age_seconds_max: float) -> AsyncIterator[bytes]:
        """Frames of the events that were not read yet, as far as they were not sent."""
        head = await self._heads.look(self._run_id, age_seconds_max=age_seconds_max)
        if head is None or head.version <= self._version:
            return
        batch: list[bytes] = []
        for recorded in await self._deps.log.read(self._run_id, after=self._version):
            self._version = recorded.version
            if self._lost(recorded.event):
                yield b"".join(batch) + _farewell()
                self._over = True
                return
            for frame in self._advance(recorded.event):
                batch.append(frame)
                if len(batch) == BATCH_FRAMES:
                    yield b"".join(batch)
                    batch = []
                    await asyncio.sleep(0)  # noqa: TID251 - a turn for the others
            self._over = self._over or isinstance(recorded.event, events.Ending)
        if batch:
            yield b"".join(batch)

    def _lost(self, event: events.Event) -> bool:
        """Chunks that this connection was sent are in no history: worker and Redis were lost."""
        return (
            isinstance(event, events.Resumed)
            and event.frames_lost > 0
            and self._sent
            and self._index > self._cursor.next_index
        )

    def _advance(self, event: events.Event) -> Iterator[bytes]:
        first = self._cursor.next_index
        made, self._cursor = frames.advance(self._cursor, event)
        for index, frame in enumerate(made, start=first):
            if index >= self._index:
                self._index = index + 1
                yield sse.encode(index, frames.encode(frame))

    # ------------------------------------------------------------------ waiting

    @asynccontextmanager
    async def _waiting(self) -> AsyncIterator[Wait]:
        drained = asyncio.create_task(self._deps.draining.wait())
        async with AsyncExitStack() as stack:
            stack.callback(drained.cancel)
            try:
                changed = await stack.enter_async_context(self._deps.chunks.watch(self._run_id))
            except QueueUnavailable:
                changed = None

            async def wait(seconds: float) -> None:
                if changed is None or not await self._wake(changed, drained, seconds):
                    await asyncio.wait({drained}, timeout=seconds)

            yield wait

    async def _wake(
        self, changed: Wait, drained: "asyncio.Task[Literal[True]]", seconds: float
    ) -> bool:
        """Until a wake, the drain or the time; False = Redis cannot tell."""
        until = self._now() + seconds
        wake = asyncio.create_task(_call(changed, seconds))
        try:
            await asyncio.wait((wake, drained), return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()
            (result,) = await asyncio.gather(wake, return_exceptions=True)
        if isinstance(result, QueueUnavailable):
            return False
        if isinstance(result, Exception):
            raise result
        self._woken = self._now() < until
        return True


async def _call(changed: Wait, seconds: float) -> None:
    await changed(seconds)


def _farewell() -> bytes:
    """For this connection only: not chunks of the run, so they carry no index."""
    said = (frames.Error(FRAMES_LOST), frames.Finish("error"))
    return b"".join(b"data: %b\n\n" % frames.encode(frame) for frame in said)
