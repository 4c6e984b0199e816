"""How long after its POST a run is in the list, and how reads fare while something else goes on."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from scripts.bench_parts.lib import LeanClient, quantile_ms

BODY = json.dumps({"prompt": "one two three four", "model": "scripted/echo"}).encode()
LIST = "/api/chat/runs"
VISIBLE_SECONDS_MAX = 10.0
POLL_SECONDS = 0.001
"""Between two looks: a reader that asks without pause would be what is measured."""
WAITING_MAX = 32
"""Runs that are looked for at a time; beyond it the next POST waits, and the rate told is lower."""
ACCEPTED = 202
OK = 200


class BenchFailed(Exception):
    """What is measured does not do what it should."""


@dataclass
class Visible:
    """Seconds from when a POST was sent, and from when it was answered, until a list has its run.

    The commit lies between the two.
    """

    sent: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    polls: int = 0
    failed_polls: int = 0
    seconds: float = 0.0
    """Of the whole measurement."""

    def figures(self) -> dict[str, Any]:
        return {
            "runs": len(self.sent),
            "posted_per_s": round(len(self.sent) / self.seconds, 1),
            "answered_to_visible_p50_ms": quantile_ms(self.answered, 0.5),
            "answered_to_visible_p99_ms": quantile_ms(self.answered, 0.99),
            "sent_to_visible_p50_ms": quantile_ms(self.sent, 0.5),
            "sent_to_visible_p99_ms": quantile_ms(self.sent, 0.99),
            "polls_a_run": round(self.polls / len(self.sent), 1),
            "failed_polls": self.failed_polls,
        }


async def visible(details: dict[str, Any], *, runs: int, runs_per_second: float) -> Visible:
    """POSTs at a steady rate, each followed by polls of the list's first page until it is there."""
    found = Visible()
    idle: list[LeanClient] = []

    async def one() -> None:
        client = idle.pop() if idle else await _client(details)
        sent = time.perf_counter()
        status, answer = await client.call("POST", LIST, BODY)
        answered = time.perf_counter()
        if status != ACCEPTED:
            raise BenchFailed(f"POST answered {status}: {answer!r}")
        run_id = json.loads(answer)["runId"].encode()
        while True:
            found.polls += 1
            status, page = await client.call("GET", LIST)
            now = time.perf_counter()
            found.failed_polls += status != OK
            if status == OK and run_id in page:
                break
            if now - answered > VISIBLE_SECONDS_MAX:
                raise BenchFailed(f"not in the list after {VISIBLE_SECONDS_MAX:g} s")
            await asyncio.sleep(POLL_SECONDS)
        found.sent.append(now - sent)
        found.answered.append(now - answered)
        idle.append(client)
        room.release()

    room = asyncio.Semaphore(WAITING_MAX)
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(runs):
            await asyncio.sleep(max(0.0, begin + number / runs_per_second - time.perf_counter()))
            await room.acquire()
            group.create_task(one())
    found.seconds = time.perf_counter() - begin
    for client in idle:
        client.close()
    return found


@dataclass
class Reads:
    """What readers saw."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    first_failure: str = ""

    def figures(self) -> dict[str, Any]:
        return {
            "reads": len(self.seconds),
            "failed_reads": self.failed,
            "first_failure": self.first_failure,
            "read_p50_ms": quantile_ms(self.seconds, 0.5),
            "read_p99_ms": quantile_ms(self.seconds, 0.99),
            "read_max_ms": quantile_ms(self.seconds, 1.0),
        }


@asynccontextmanager
async def readers(
    details: dict[str, Any], key: str, paths: Iterable[str], *, every_seconds: float = 0.0
) -> AsyncIterator[Reads]:
    """One client a path, which asks for it again and again.

    A read has failed that is not answered with 200, or with fewer rows than the first one.
    """
    reads = Reads()

    async def reader(path: str) -> None:
        client = await LeanClient(details["baseUrl"], key).open()
        rows = 0
        while True:
            begin = time.perf_counter()
            status, answer = await client.call("GET", path)
            reads.seconds.append(time.perf_counter() - begin)
            now = answer.count(b'"runId"')
            if status != OK or now < rows:
                reads.failed += 1
                reads.first_failure = reads.first_failure or f"{status} with {now} of {rows} rows"
            rows = max(rows, now)
            await asyncio.sleep(every_seconds)

    tasks = [asyncio.create_task(reader(path)) for path in paths]
    try:
        yield reads
    finally:
        for task in tasks:
            if task.done():  # a reader that broke is no read that went well
                reads.failed += 1
                reads.first_failure = reads.first_failure or repr(task.exception())
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def posts(details: dict[str, Any], *, runs_per_second: float) -> AsyncIterator[list[float]]:
    """Live traffic: how long each POST took, in seconds."""
    took: list[float] = []

    async def post() -> None:
        client = await _client(details)
        while True:
            begin = time.perf_counter()
            status, answer = await client.call("POST", LIST, BODY)
            took.append(time.perf_counter() - begin)
            if status != ACCEPTED:
                raise BenchFailed(f"POST answered {status}: {answer!r}")
            await asyncio.sleep(max(0.0, begin + 1 / runs_per_second - time.perf_counter()))

    task = asyncio.create_task(post())
    try:
        yield took
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _client(details: dict[str, Any]) -> LeanClient:
    return await LeanClient(details["baseUrl"], details["apiKey"]).open()
