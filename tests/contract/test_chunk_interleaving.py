"""Two attempts at one chunk stream, in any order: what holds whatever they do."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs_domain.errors import StaleAttempt
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import ChunkStream
from runs_domain.storage.memory_chunks import MemoryChunks
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from tests.support.redis_twins import pubsub_of

_runs = itertools.count(1)


@dataclass(frozen=True)
class Action:
    verb: Literal["write", "restart", "raise"]
    attempt: int
    offset: int
    """From the next index."""
    count: int


actions = st.builds(
    Action,
    verb=st.sampled_from(["write", "write", "write", "restart", "raise"]),
    attempt=st.integers(1, 3),
    offset=st.sampled_from([0, 0, 0, -1, 1]),
    count=st.integers(0, 3),
)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[PipelinedRedis]:
    client = PipelinedRedis(redis_url)
    yield client
    await client.aclose()


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has its own run
)
@given(plan=st.lists(actions, max_size=25))
async def test_invariant_3_no_lower_attempt_adds_a_frame_and_indexes_have_no_hole(
    redis: PipelinedRedis, plan: list[Action]
) -> None:
    run_id = RunId(UUID(int=next(_runs)))
    async with pubsub_of(redis) as pubsub:
        real = _Watched(RedisChunks(redis, pubsub), run_id)
        twin = _Watched(MemoryChunks(), run_id)
        for number, action in enumerate(plan):
            assert await real.perform(action, number) == await twin.perform(action, number)
            assert await real.check() == await twin.check()


@dataclass
class _Watched:
    chunks: ChunkStream
    run_id: RunId
    raised: int = 0
    seen: set[bytes] = field(default_factory=set)

    async def perform(self, action: Action, number: int) -> object:
        """What the port answered; a refusal for being too low must be one."""
        index = max(0, (await self.chunks.next_index(self.run_id) or 0) + action.offset)
        attempt = Attempt(action.attempt)
        frames = [b"%d %d %d" % (attempt, index + i, number) for i in range(action.count)]
        try:
            answer = await self._ask(action, attempt, index, frames)
        except StaleAttempt:
            assert attempt < self.raised
            return "stale"
        assert attempt >= self.raised
        if answer is not False:
            self.raised = attempt
        return answer

    async def _ask(
        self, action: Action, attempt: Attempt, index: int, frames: list[bytes]
    ) -> object:
        match action.verb:
            case "write":
                return await self.chunks.write(self.run_id, attempt, index, frames)
            case "restart":
                return await self.chunks.restart(self.run_id, attempt, index, frames)
            case "raise":
                return await self.chunks.raise_attempt(self.run_id, attempt, index)

    async def check(self) -> object:
        """Each frame stands at its index; no new frame is of an attempt below the raised one."""
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
            assert frame in self.seen or attempt >= self.raised
        self.seen = set(tail)
        return base, tail

    async def _tail(self, index: int) -> tuple[bytes, ...] | None:
        tail = await self.chunks.read(self.run_id, index, count=500)
        return None if tail is None else tail.frames
