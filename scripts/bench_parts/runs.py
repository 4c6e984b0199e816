"""Completed `scripted/echo` runs a second: one API, one worker, 32 clients that POST at once
whenever they are answered; the clock stops when the log has the last run's end."""

import asyncio
import json
import time
from typing import Any

import psycopg

from scripts.bench_parts.lib import LeanClient, cpu_seconds, emit, quantile_ms, stack

CLIENTS = 32
RUNS = 2000
WARM_UP_RUNS = 200
BODY = json.dumps({"prompt": "one two three four", "model": "scripted/echo"}).encode()
END_SECONDS_MAX = 120.0
LOOK_SECONDS = 0.05
COUNTS = """
SELECT count(*) FILTER (WHERE open), count(*) FILTER (WHERE status = 'completed') FROM run_heads
"""


async def measure(sandbox: str, details: dict[str, Any]) -> None:
    database = await psycopg.AsyncConnection.connect(details["adminDatabaseUrl"], autocommit=True)
    async with database:
        await play(details, database, WARM_UP_RUNS)
        before = cpu_by_process(details)
        begin = time.perf_counter()
        posts = await play(details, database, RUNS)
        took = time.perf_counter() - begin
        after = cpu_by_process(details)
    cpu = {name: round((after[name] - before[name]) * 1000 / RUNS, 3) for name in before}
    emit(
        "runs",
        {
            "sandbox": sandbox,
            "clients": CLIENTS,
            "runs": RUNS,
            "runs_per_second": round(RUNS / took, 1),
            "post_p50_ms": quantile_ms(posts, 0.5),
            "post_p99_ms": quantile_ms(posts, 0.99),
            "cpu_ms_per_run": {**cpu, "total": round(sum(cpu.values()), 3)},
        },
    )


async def play(
    details: dict[str, Any], database: psycopg.AsyncConnection[Any], runs: int
) -> list[float]:
    """POST `runs` runs and wait until all have ended; how long each POST took, in seconds."""
    _, completed_before = await counts(database)
    todo = iter(range(runs))
    posts: list[float] = []

    async def client() -> None:
        connection = await LeanClient(details["baseUrl"], details["apiKey"]).open()
        for _ in todo:
            begin = time.perf_counter()
            status, answer = await connection.call("POST", "/api/chat/runs", BODY)
            posts.append(time.perf_counter() - begin)
            if status != 202:
                raise SystemExit(f"POST answered {status}: {answer!r}")
        connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    deadline = time.perf_counter() + END_SECONDS_MAX
    while await counts(database) != (0, completed_before + runs):
        if time.perf_counter() > deadline:
            raise SystemExit(f"not every run completed: {await counts(database)}")
        await asyncio.sleep(LOOK_SECONDS)
    return posts


async def counts(database: psycopg.AsyncConnection[Any]) -> tuple[int, int]:
    """Open runs and completed runs."""
    row = await (await database.execute(COUNTS)).fetchone()
    assert row is not None
    return row[0], row[1]


def cpu_by_process(details: dict[str, Any]) -> dict[str, float]:
    pids = details["pids"]
    named = {name: pids[name] for name in ("api", "projector", "postgres", "valkey")}
    named["worker"] = pids["workers"][0]
    return {name: cpu_seconds(pid) for name, pid in named.items()}


def main() -> None:
    for sandbox in ("none", "local"):
        with stack(SANDBOX=sandbox) as details:
            asyncio.run(measure(sandbox, details))


if __name__ == "__main__":
    main()
