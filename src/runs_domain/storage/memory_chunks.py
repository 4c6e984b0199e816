"""The ChunkStream port over dicts, for tests alone."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from typing_extensions import override

from runs_domain.errors import FenceDown, StaleAttempt
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import ChunkStream, ChunkTail, Fence
from runs_domain.storage.waking import Signal

NO_FENCE: Final = Fence(Attempt(0), "")


@dataclass
class _Stream:
    fence: Fence = NO_FENCE
    attempt: Attempt = Attempt(0)  # noqa: RUF009 - a number
    """Whose frames were written last."""
    base: int | None = None
    frames: list[bytes] = field(default_factory=list)

    @property
    def next(self) -> int:
        return (self.base or 0) + len(self.frames)


class MemoryChunks(ChunkStream):
    """`expiries` tells a test what `expire` was asked for; nothing goes by itself."""

    def __init__(self) -> None:
        self._streams: dict[RunId, _Stream] = {}
        self._marks = itertools.count(1)
        self._watchers: dict[RunId, set[Signal]] = {}
        self.expiries: dict[RunId, int] = {}

    def wipe(self) -> None:
        """What FLUSHALL does."""
        self._streams.clear()

    @override
    async def raise_attempt(self, run_id: RunId, attempt: Attempt) -> Fence:
        fence = Fence(attempt, str(next(self._marks)))
        self._not_stale(run_id, fence).fence = fence
        return fence

    @override
    async def tail(self, run_id: RunId, fence: Fence, index: int) -> ChunkTail | None:
        stream = self._fenced(run_id, fence)
        if stream.base is None:
            return None
        first = min(max(index, stream.base), stream.next)
        return ChunkTail(first, tuple(stream.frames[first - stream.base :]), stream.attempt)

    @override
    async def write(self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]) -> bool:
        stream = self._fenced(run_id, fence)
        if stream.base is None and index == 0:
            stream.base = 0
        elif stream.base is None or index != stream.next:
            return False
        stream.attempt = fence.attempt
        stream.frames += frames
        await self.wake(run_id)
        return True

    @override
    async def restart(
        self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]
    ) -> None:
        stream = self._fenced(run_id, fence)
        stream.attempt, stream.base, stream.frames = fence.attempt, index, list(frames)
        await self.wake(run_id)

    def _not_stale(self, run_id: RunId, fence: Fence) -> _Stream:
        stream = self._streams.setdefault(run_id, _Stream())
        if fence.attempt < stream.fence.attempt:
            raise StaleAttempt(f"the chunks of run {run_id} have passed attempt {fence.attempt}")
        return stream

    def _fenced(self, run_id: RunId, fence: Fence) -> _Stream:
        stream = self._not_stale(run_id, fence)
        if stream.fence != fence:
            raise FenceDown(f"attempt {fence.attempt} has no fence at the chunks of run {run_id}")
        return stream

    @override
    async def read(self, run_id: RunId, index: int, *, count: int) -> ChunkTail | None:
        stream = self._streams.get(run_id)
        if stream is None or stream.base is None or index < stream.base:
            return None
        start = index - stream.base
        frames = tuple(stream.frames[start : start + count])
        return ChunkTail(min(index, stream.next), frames, stream.attempt)

    @override
    async def next_index(self, run_id: RunId) -> int | None:
        stream = self._streams.get(run_id)
        return None if stream is None or stream.base is None else stream.next

    @override
    @asynccontextmanager
    async def watch(self, run_id: RunId) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        signal = Signal()
        watchers = self._watchers.setdefault(run_id, set())
        watchers.add(signal)
        try:
            yield signal.wait
        finally:
            watchers.discard(signal)

    @override
    async def wake(self, run_id: RunId) -> None:
        for signal in self._watchers.get(run_id, ()):
            signal.set()

    @override
    async def expire(self, run_id: RunId, *, seconds: int) -> None:
        self.expiries[run_id] = seconds
