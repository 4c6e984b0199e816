"""arq 0.28 as it comes, measured as ours is: its own Worker in a process of its own.

The worker: `python -m scripts.bench_parts._arq URL POLL_SECONDS SLOTS NOTES`.
"""

import asyncio
import itertools
import sys
import time
from typing import Any, Final

from arq.connections import RedisSettings, create_pool
from arq.constants import default_queue_name
from arq.worker import Worker, func
from redis.asyncio import Redis
from redis.asyncio.connection import parse_url

ARQ_DEFAULT_POLL_SECONDS: Final = 0.5
BEGUN: Final = "bench:begun"
SENDERS_AT_ONCE: Final = 100


class ArqJobs:
    def __init__(self, url: str, *, poll_seconds: float, slots: int) -> None:
        self.url = url
        self.poll_seconds = poll_seconds
        self._slots = slots
        self._numbers = itertools.count()

    async def open(self) -> None:
        self._pool = await create_pool(settings_of(self.url))
        await self._pool.flushdb()

    async def close(self) -> None:
        await self._pool.aclose()

    async def send(self, count: int) -> None:
        for _ in range(0, count, SENDERS_AT_ONCE):
            await asyncio.gather(*(self._send() for _ in range(min(count, SENDERS_AT_ONCE))))

    async def _send(self) -> None:
        await self._pool.enqueue_job("noop", _job_id=str(next(self._numbers)))

    async def left(self) -> int:
        return int(await self._pool.zcard(default_queue_name))

    async def start_worker(self, *, notes: int) -> asyncio.subprocess.Process:
        module = "scripts.bench_parts._arq"
        given = [self.url, str(self.poll_seconds), str(self._slots), str(notes)]
        return await asyncio.create_subprocess_exec(sys.executable, "-m", module, *given)


def settings_of(url: str) -> RedisSettings:
    target = parse_url(url)
    place = {"unix_socket_path": target["path"]} if "path" in target else {"host": target["host"]}
    return RedisSettings(**place, port=target.get("port", 6379), database=target.get("db", 0))


def main(url: str, poll_seconds: float, slots: int, notes: int) -> None:
    redis: Redis = Redis.from_url(url)
    left = notes

    async def noop(ctx: dict[str, Any]) -> None:  # noqa: ARG001 - arq's call
        nonlocal left
        if left > 0:
            left -= 1
            await redis.rpush(BEGUN, time.monotonic())  # type: ignore[misc]

    # What costs arq time and ours does not have is off: kept results and log lines.
    worker = Worker(
        [func(noop, name="noop", keep_result=0)],  # type: ignore[arg-type] # arq's protocol wants *args
        redis_settings=settings_of(url),
        max_jobs=slots,
        log_results=False,
        poll_delay=poll_seconds,
    )
    worker.run()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
