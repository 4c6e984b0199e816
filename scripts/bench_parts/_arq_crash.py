"""How long arq 0.28 leaves a killed worker's job alone, beside a second worker with free slots.

A worker: `python -m scripts.bench_parts._arq_crash URL JOB_TIMEOUT_SECONDS`.
"""

import asyncio
import os
import sys
import time
from typing import Any, Final

from arq.connections import create_pool
from arq.worker import Worker, func
from redis.asyncio import Redis

from scripts.bench_parts._arq import BEGUN, settings_of

GRACE_SECONDS: Final = 10
"""arq lets its in-progress mark stand for this long after the job's time-out."""
SPARE_SECONDS: Final = 20
JOB_SECONDS: Final = 3600.0


async def crash(url: str, job_timeout_seconds: int) -> float:
    """Seconds from SIGKILL until the job begins on the other worker."""
    pool = await create_pool(settings_of(url))
    redis: Redis = Redis.from_url(url)
    await redis.flushdb()
    workers = [await _start(url, job_timeout_seconds) for _ in range(2)]
    try:
        await pool.enqueue_job("hang")
        begun = await redis.blpop([BEGUN], timeout=SPARE_SECONDS)  # type: ignore[misc]
        victim = next(one for one in workers if one.pid == int(begun[1].split()[0]))
        killed = time.monotonic()
        victim.kill()
        wait = job_timeout_seconds + GRACE_SECONDS + SPARE_SECONDS
        again = await redis.blpop([BEGUN], timeout=wait)  # type: ignore[misc]
        return float(again[1].split()[1]) - killed
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
        await redis.aclose()
        await pool.aclose()


async def _start(url: str, job_timeout_seconds: int) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "scripts.bench_parts._arq_crash"]
    return await asyncio.create_subprocess_exec(*command, url, str(job_timeout_seconds))


def main(url: str, job_timeout_seconds: int) -> None:
    redis: Redis = Redis.from_url(url)

    async def hang(ctx: dict[str, Any]) -> None:  # noqa: ARG001 - arq's call
        await redis.rpush(BEGUN, f"{os.getpid()} {time.monotonic()}")  # type: ignore[misc]
        await asyncio.sleep(JOB_SECONDS)

    worker = Worker(
        [func(hang, name="hang")],  # type: ignore[arg-type] # arq's protocol wants *args
        redis_settings=settings_of(url),
        job_timeout=job_timeout_seconds,
        log_results=False,
    )
    worker.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
