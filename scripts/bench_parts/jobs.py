"""The job queue alone, beside arq 0.28 itself in the same run: no-op jobs a second with one worker,
and how soon a sent job begins on an idle one. Each worker is a process of its own with SLOTS slots.

Throughput: jobs wait, one worker starts; from the first job's begin until the last one is gone.
Latency: one job at a time, from before `send` to the begin of its function, by the clock that all
processes share. arq is measured with its default poll and with one of ARQ_POLL_SECONDS.
"""

import asyncio
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from redis.asyncio import Redis

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from scripts.bench_parts._arq import ARQ_DEFAULT_POLL_SECONDS, BEGUN, ArqJobs
from scripts.bench_parts.lib import emit, quantile_ms
from workers.delivery import Delivery
from workers.stack.servers import Servers
from workers.stream_worker import StreamWorker

JOBS = 10_000
JOBS_AT_DEFAULT_POLL = 1_000
"""arq at its default poll is slow enough to be measured with fewer."""
LATENCY_JOBS = 1_000
LATENCY_JOBS_AT_DEFAULT_POLL = 100
WARM_UP_JOBS = 20
SENDERS_AT_ONCE = 200
SLOTS = 64
ARQ_POLL_SECONDS = 0.01
POLL_SECONDS = 0.002
WAIT_SECONDS = 60


class Queue(Protocol):
    url: str
    poll_seconds: float

    async def open(self) -> None:
        """Empty it, too."""

    async def close(self) -> None: ...
    async def send(self, count: int) -> None: ...
    async def left(self) -> int:
        """Jobs that are not finished."""

    async def start_worker(self, *, notes: int) -> asyncio.subprocess.Process: ...


class OurJobs:
    poll_seconds = 0.01
    """It does not poll; jobs are sent as far apart as to the quicker arq."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._numbers = itertools.count()

    async def open(self) -> None:
        self._redis = PipelinedRedis(self.url)
        await self._redis.flushdb()

    async def close(self) -> None:
        await self._redis.aclose()

    async def send(self, count: int) -> None:
        jobs = RedisJobs(self._redis)
        for start in range(0, count, SENDERS_AT_ONCE):
            part = min(SENDERS_AT_ONCE, count - start)
            await asyncio.gather(*(jobs.send(job(next(self._numbers))) for _ in range(part)))

    async def left(self) -> int:
        return int(await self._redis.hlen(names.JOB_INDEX))

    async def start_worker(self, *, notes: int) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "scripts.bench_parts.jobs", "--worker"]
        return await asyncio.create_subprocess_exec(*command, self.url, str(notes))


def job(number: int) -> Job:
    return Job(kind="run", id=str(UUID(int=number)), account_id=f"account-{number % SLOTS}")


async def throughput(queue: Queue, count: int) -> dict[str, Any]:
    await queue.open()
    await queue.send(count)
    redis: Redis = Redis.from_url(queue.url)
    process = await queue.start_worker(notes=1)
    try:
        first = await redis.blpop([BEGUN], timeout=WAIT_SECONDS)  # type: ignore[misc]
        while await queue.left():  # noqa: ASYNC110 - the count is in Redis
            await asyncio.sleep(POLL_SECONDS)
        seconds = time.monotonic() - float(first[1])
    finally:
        await end(process)
        await redis.aclose()
        await queue.close()
    return {"jobs": count, "jobs_per_s": round(count / seconds)}


async def latency(queue: Queue, count: int) -> dict[str, Any]:
    await queue.open()
    redis: Redis = Redis.from_url(queue.url)
    process = await queue.start_worker(notes=WARM_UP_JOBS + count)
    took: list[float] = []
    try:
        for number in range(WARM_UP_JOBS + count):
            # At any moment of the worker's polls, not always right after one.
            await asyncio.sleep(random.uniform(0, queue.poll_seconds))  # noqa: S311
            sent = time.monotonic()
            await queue.send(1)
            begun = await redis.blpop([BEGUN], timeout=WAIT_SECONDS)  # type: ignore[misc]
            if number >= WARM_UP_JOBS:
                took.append(float(begun[1]) - sent)
    finally:
        await end(process)
        await redis.aclose()
        await queue.close()
    return {"dispatch_p50_ms": quantile_ms(took, 0.5), "dispatch_p99_ms": quantile_ms(took, 0.99)}


async def end(process: asyncio.subprocess.Process) -> None:
    process.kill()  # it has nothing left to do
    await process.wait()


async def work(url: str, notes: int) -> None:
    """Our worker process: notes when a job begins, for the first `notes` of them."""
    redis: Redis = Redis.from_url(url)
    left = notes

    async def run(_ctx: dict[Any, Any], _job: Job, _delivery: Delivery) -> bool:
        nonlocal left
        if left > 0:
            left -= 1
            await redis.rpush(BEGUN, time.monotonic())  # type: ignore[misc]
        return True

    worker = StreamWorker(url, {"run": run}, slots=SLOTS)
    await worker.serve()
    await redis.aclose()


async def measure(servers: Servers) -> dict[str, Any]:
    ours = OurJobs(servers.valkey.url(0))
    default = ArqJobs(servers.valkey.url(1), poll_seconds=ARQ_DEFAULT_POLL_SECONDS, slots=SLOTS)
    quick = ArqJobs(servers.valkey.url(1), poll_seconds=ARQ_POLL_SECONDS, slots=SLOTS)
    figures = {
        "runledger": await throughput(ours, JOBS) | await latency(ours, LATENCY_JOBS),
        "arq_default_poll": await throughput(default, JOBS_AT_DEFAULT_POLL)
        | await latency(default, LATENCY_JOBS_AT_DEFAULT_POLL),
        "arq_poll_10_ms": await throughput(quick, JOBS) | await latency(quick, LATENCY_JOBS),
    }
    mine, best = figures["runledger"], figures["arq_poll_10_ms"]
    ratios = {
        "jobs_per_s_over_arq_poll_10_ms": round(mine["jobs_per_s"] / best["jobs_per_s"], 2),
        "dispatch_p50_under_arq_poll_10_ms": round(
            best["dispatch_p50_ms"] / mine["dispatch_p50_ms"], 2
        ),
    }
    return {"slots": SLOTS, **figures, **ratios}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        asyncio.run(work(sys.argv[2], int(sys.argv[3])))
        return
    with (
        tempfile.TemporaryDirectory(prefix="rl-bench-") as folder,
        Servers(Path(folder)) as servers,
    ):
        emit("jobs", asyncio.run(measure(servers)))


if __name__ == "__main__":
    main()
