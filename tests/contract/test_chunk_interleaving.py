"""Two attempts at one chunk stream, in any order: what holds whatever they do."""

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs_domain.errors import FenceDown, StaleAttempt
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import ChunkStream, Fence
from runs_domain.storage.memory_chunks import NO_FENCE, MemoryChunks
from runs_domain.storage.redis_chunks import RedisChunks, _keys
from runs_domain.storage.redis_client import PipelinedRedis
from tests.support.redis_twins import pubsub_of

_runs = itertools.count(1)


@dataclass(frozen=True)
class Action:
    verb: Literal["write", "restart", "raise", "wipe"]
    worker: int
    """Its attempt is 1 + half of it: two workers share one."""
    offset: int
    """From the next index."""
    count: int


actions = st.builds(
    Action,
    verb=st.sampled_from(["write", "write", "write", "restart", "raise", "raise", "wipe"]),
    worker=st.integers(0, 5),
    offset=st.sampled_from([0, 0, 0, -1, 1]),
    count=st.integers(0, 3),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has its own run
)
@given(plan=st.lists(actions, max_size=25))
async def test_invariant_3_only_whose_fence_stands_adds_a_frame_and_indexes_have_no_hole(
    redis: PipelinedRedis, plan: list[Action]
) -> None:
    run_id = RunId(UUID(int=next(_runs)))
    async with pubsub_of(redis) as pubsub:
        memory, redis_chunks = MemoryChunks(), RedisChunks(redis, pubsub)
        real = _Watched(redis_chunks, run_id, lambda: redis.delete(*_keys(run_id)))
        twin = _Watched(memory, run_id, lambda: _done(memory.wipe()))
        for number, action in enumerate(plan):
            assert await real.perform(action, number) == await twin.perform(action, number)
            assert await real.check() == await twin.check()


async def _done(_: None) -> None:
    pass


@dataclass
class _Watched:
    chunks: ChunkStream
    run_id: RunId
    wipe: Callable[[], Awaitable[object]]
    fences: dict[int, Fence] = field(default_factory=dict)
    standing: Fence | None = None
    """What a reader of this test knows: the fence that the last raise after the last wipe made."""
    seen: set[bytes] = field(default_factory=set)

    async def perform(self, action: Action, number: int) -> object:
        """What the port answered; it is checked against the fence that stands."""
        if action.verb == "wipe":
            await self.wipe()
            self.standing, self.seen = None, set()
            return None
        attempt = Attempt(1 + action.worker // 2)
        standing = self.standing
        try:
            if action.verb == "raise":
                fence = await self.chunks.raise_attempt(self.run_id, attempt)
                self.fences[action.worker] = self.standing = fence
                answer: object = fence.attempt
            else:
                answer = await self._send(action, attempt, number)
        except StaleAttempt:
            assert standing is not None
            assert attempt < standing.attempt
            return "stale"
        except FenceDown:
            assert standing is None or attempt >= standing.attempt
            assert standing != self.fences.get(action.worker, NO_FENCE)
            return "down"
        assert standing is None or attempt >= standing.attempt
        assert action.verb == "raise" or standing == self.fences[action.worker]
        return answer

    async def _send(self, action: Action, attempt: Attempt, number: int) -> object:
        fence = self.fences.get(action.worker, Fence(attempt, "never raised"))
        index = max(0, (await self.chunks.next_index(self.run_id) or 0) + action.offset)
        frames = [b"%d %d %d" % (attempt, index + i, number) for i in range(action.count)]
        if action.verb == "restart":
            return await self.chunks.restart(self.run_id, fence, index, frames)
        return await self.chunks.write(self.run_id, fence, index, frames)

    async def check(self) -> object:
        """Each frame stands at its index; no new frame is of an attempt below the fence."""
        end = await self.chunks.next_index(self.run_id)
        if end is None:
            return None
        base, tail = 0, await self._tail(0)
        while tail is None:
            base += 1
            tail = await self._tail(base)
        assert base + len(tail) == end
        for place, frame in enumerate(tail, base):
            attempt, index, _ = map(int, frame.split())
            assert index == place
            assert frame in self.seen or (
                self.standing is not None and attempt == self.standing.attempt
            )
        self.seen = set(tail)
        return base, tail

    async def _tail(self, index: int) -> tuple[bytes, ...] | None:
        tail = await self.chunks.read(self.run_id, index, count=500)
        return None if tail is None else tail.frames
