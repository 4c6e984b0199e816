"""The job queue alone: no-op jobs a second with one worker, and how soon a sent job begins.

Throughput: JOBS wait in the stream, one worker process starts; from the first job's begin until
the last one is finished and gone. Latency: one job at a time to an idle worker in another process,
from before `send` to the begin of the job's function, by the clock that all processes share.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from redis.asyncio import Redis

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_jobs import RedisJobs
from scripts.bench_parts.lib import emit, quantile_ms
from workers.delivery import Delivery
from workers.stack.servers import Servers
from workers.stream_worker import StreamWorker

JOBS = 10_000
SENDERS_AT_ONCE = 200
LATENCY_JOBS = 1_000
WARM_UP_JOBS = 100
SLOTS = 64
BEGUN = "bench:begun"
POLL_SECONDS = 0.002
WAIT_SECONDS = 60


def job(number: int) -> Job:
    return Job(kind="run", id=str(UUID(int=number)), account_id="bench")


async def send_many(redis: Redis, count: int) -> None:
    jobs = RedisJobs(redis)
    for start in range(0, count, SENDERS_AT_ONCE):
        numbers = range(start, min(start + SENDERS_AT_ONCE, count))
        await asyncio.gather(*(jobs.send(job(number)) for number in numbers))


async def throughput(url: str) -> dict[str, Any]:
    redis = Redis.from_url(url, max_connections=SENDERS_AT_ONCE)
    await send_many(redis, JOBS)
    process = await start_worker(url, notes=1)
    try:
        first = await redis.blpop([BEGUN], timeout=WAIT_SECONDS)
        while await redis.xlen(names.JOB_STREAM):  # noqa: ASYNC110 - the count is in Redis
            await asyncio.sleep(POLL_SECONDS)
        seconds = time.monotonic() - float(first[1])
    finally:
        await end_worker(process)
        await redis.aclose()
    return {"jobs": JOBS, "jobs_per_s": round(JOBS / seconds), "slots": SLOTS}


async def latency(url: str) -> dict[str, Any]:
    redis = Redis.from_url(url)
    await redis.flushall()
    process = await start_worker(url, notes=WARM_UP_JOBS + LATENCY_JOBS)
    took: list[float] = []
    try:
        jobs = RedisJobs(redis)
        for number in range(WARM_UP_JOBS + LATENCY_JOBS):
            sent = time.monotonic()
            await jobs.send(job(number))
            begun = await redis.blpop([BEGUN], timeout=WAIT_SECONDS)
            if number >= WARM_UP_JOBS:
                took.append(float(begun[1]) - sent)
    finally:
        await end_worker(process)
        await redis.aclose()
    return {
        "dispatch_p50_ms": quantile_ms(took, 0.5),
        "dispatch_p99_ms": quantile_ms(took, 0.99),
    }


async def start_worker(url: str, *, notes: int) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "scripts.bench_parts.jobs", "--worker", url, str(notes)]
    return await asyncio.create_subprocess_exec(*command)


async def end_worker(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    await process.wait()


async def work(url: str, notes: int) -> None:
    """The worker process: notes when a job begins, for the first `notes` of them."""
    redis = Redis.from_url(url)
    left = notes

    async def run(_ctx: dict[Any, Any], _job: Job, _delivery: Delivery) -> bool:
        nonlocal left
        if left > 0:
            left -= 1
            await redis.rpush(BEGUN, time.monotonic())
        return True

    worker = StreamWorker(url, {"run": run}, slots=SLOTS)
    await worker.serve()
    await redis.aclose()


async def measure(url: str) -> dict[str, Any]:
    return {**await throughput(url), **await latency(url)}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        asyncio.run(work(sys.argv[2], int(sys.argv[3])))
        return
    with (
        tempfile.TemporaryDirectory(prefix="rl-bench-") as folder,
        Servers(Path(folder)) as servers,
    ):
        emit("jobs", asyncio.run(measure(servers.redis_url)))


if __name__ == "__main__":
    sys.exit(main())
