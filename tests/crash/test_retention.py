"""What runs leave in Redis: once they have ended, nothing that would stay."""

import json
from collections.abc import Iterator
from uuid import UUID

import pytest
import redis

from runs_domain.ids import RunId
from runs_domain.storage import redis_names as names
from tests.support.rest import SPEAK, Rest
from tests.support.stacks import BreakableStack, kill
from tests.support.waiting import until

pytestmark = pytest.mark.crash

EMPTY_AT_REST = (
    names.JOB_STREAM,
    names.JOB_INDEX,
    names.JOB_LATER,
    names.JOB_LATER_DATA,
    names.JOB_SHARES,
    names.JOB_WAITING,
    names.JOB_ACCOUNTS,
)
SIZES = {b"stream": "xlen", b"hash": "hlen", b"zset": "zcard", b"set": "scard", b"list": "llen"}


@pytest.fixture
def store(broken: BreakableStack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(broken.details["redisUrl"], socket_timeout=5.0) as client:
        yield client


def left(store: redis.Redis) -> dict[str, int]:
    """Keys without a time to live, and the sizes of those that should be empty."""
    found = {}
    for key in store.scan_iter(count=1000):
        name = key.decode()
        if store.ttl(key) == -1 and name not in names.WITHOUT_TTL:
            found[f"{name} stays"] = 1
    for name in EMPTY_AT_REST:
        kind = store.type(name)
        if kind in SIZES and (size := getattr(store, SIZES[kind])(name)):
            found[name] = size
    return found


def chunk_keys(store: redis.Redis) -> list[bytes]:
    patterns = ("rl:{*}:chunks", "rl:{*}:frames")
    return [key for pattern in patterns for key in store.scan_iter(pattern, count=1000)]


@pytest.mark.settings(chunks_kept_seconds="1", lease_seconds="1", sandbox="none")
async def test_ended_runs_leave_nothing_in_redis_that_would_stay(
    broken: BreakableStack, client: Rest, store: redis.Redis
) -> None:
    """Completed, failed, cancelled before and in the middle, taken over from a killed worker: no
    job, no index, no share, no key of arq's; live frames go after their second, and whoever asks
    for them then gets them from the log.
    """
    waiting = await client.start("never")
    await client.cancel(waiting)
    first = broken.start_worker()
    spoken = await client.start("a b")
    refused = await client.start("no playbook", "scripted/playbook")
    stopped, lost = await client.play(SPEAK), await client.play(SPEAK, {"text": "after"})
    for run in (stopped, lost):
        key = names.chunk_frames(RunId(UUID(run.run_id)))
        await until(lambda key=key: store.llen(key) > 4)
        assert 0 < store.ttl(key) <= names.CHUNKS_LIVE_SECONDS, "also while it lives"
    await client.cancel(stopped)
    kill(first)
    broken.start_worker()
    ends = {
        waiting: "cancelled",
        spoken: "completed",
        refused: "failed",
        stopped: "cancelled",
        lost: "completed",
    }
    for run, status in ends.items():
        await client.reached(run, "sandbox_released")
        assert await client.status(run) == status

    await until(lambda: not chunk_keys(store))
    await until(lambda: not left(store))

    assert not list(store.scan_iter("arq:*"))
    frames = [json.loads(frame) for frame in await client.replay(spoken) if frame != b"[DONE]"]
    assert "".join(frame.get("delta", "") for frame in frames) == "a b"
