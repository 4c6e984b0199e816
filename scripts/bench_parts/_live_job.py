"""One long job on one worker beside an idle one: how often does it begin?

A worker: `python -m scripts.bench_parts._live_job URL SECONDS BLOCK_EVERY_SECONDS`.
"""

import asyncio
import sys
import time
from typing import Any, Final
from uuid import UUID

from redis.asyncio import Redis

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_jobs import RedisJobs
from workers.delivery import Delivery
from workers.stream_worker import StreamWorker

BLOCK_SECONDS: Final = 8.0
"""How long the job keeps the event loop busy each time."""
BLOCK_EVERY_SECONDS: Final = 120.0
LEASE_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 0.5
SPARE_SECONDS: Final = 60.0
BEGUN: Final = "bench:begun"
BLOCKED: Final = "bench:blocked"
DONE: Final = "bench:done"


async def live_job(url: str, seconds: float) -> dict[str, Any]:
    """Counts of one job that lasts for `seconds`; its event loop is blocked at least once."""
    every = min(BLOCK_EVERY_SECONDS, seconds / 2)
    redis: Redis = Redis.from_url(url)
    await redis.flushdb()
    command = [sys.executable, "-m", "scripts.bench_parts._live_job", url, str(seconds), str(every)]
    workers = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
    try:
        await RedisJobs(redis).send(Job(kind="run", id=str(UUID(int=1)), account_id="bench"))
        end = time.monotonic() + seconds + SPARE_SECONDS
        while await redis.hlen(names.JOB_INDEX):  # type: ignore[misc]
            if time.monotonic() > end:
                break
            await asyncio.sleep(LOOK_SECONDS)
        counts = [int(await redis.get(key) or 0) for key in (BEGUN, BLOCKED, DONE)]
    finally:
        for worker in workers:
            worker.terminate()
            await worker.wait()
        await redis.aclose()
    return {
        "job_seconds": seconds,
        "lease_seconds": LEASE_SECONDS,
        "begun": counts[0],
        f"event_loop_blocked_{BLOCK_SECONDS:g}_s_times": counts[1],
        "done": counts[2],
    }


async def work(url: str, seconds: float, block_every_seconds: float) -> None:
    redis: Redis = Redis.from_url(url)

    async def run(_ctx: dict[Any, Any], _job: Job, _delivery: Delivery) -> bool:
        await redis.incr(BEGUN)
        end = time.monotonic() + seconds
        next_block = time.monotonic() + block_every_seconds
        while time.monotonic() < end:
            await asyncio.sleep(min(LOOK_SECONDS, max(0.0, end - time.monotonic())))
            if time.monotonic() >= next_block:
                time.sleep(BLOCK_SECONDS)  # noqa: ASYNC251 - blocks the event loop, on purpose
                next_block += block_every_seconds
                await redis.incr(BLOCKED)
        await redis.incr(DONE)
        return True

    worker = StreamWorker(url, {"run": run}, lease_seconds=LEASE_SECONDS)
    await worker.serve()
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
