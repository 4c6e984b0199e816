"""POST → 202 and POST → first worker event, on an idle stack, one client."""

import asyncio
import json
import statistics
import time
from datetime import datetime
from typing import Any

from scripts.bench_parts.lib import LeanClient, emit, quantile_ms, stack

STARTS = 400
WARM_UP = 40
PAUSE_SECONDS = 0.02
BODY = json.dumps({"prompt": "one two three", "model": "scripted/echo"}).encode()
END_SECONDS_MAX = 10.0


async def measure(details: dict[str, Any]) -> None:
    client = await LeanClient(details["baseUrl"], details["apiKey"]).open()
    posts: list[float] = []
    firsts: list[float] = []
    for number in range(WARM_UP + STARTS):
        wall, begin = time.time(), time.perf_counter()
        status, answer = await client.call("POST", "/api/chat/runs", BODY)
        took = time.perf_counter() - begin
        if status != 202:
            raise SystemExit(f"POST answered {status}: {answer!r}")
        first = await first_worker_event(client, json.loads(answer)["runId"])
        if number >= WARM_UP:
            posts.append(took)
            firsts.append(first - wall)
        await asyncio.sleep(PAUSE_SECONDS)
    client.close()
    emit(
        "start",
        {
            "starts": STARTS,
            "post_p50_ms": quantile_ms(posts, 0.5),
            "post_p99_ms": quantile_ms(posts, 0.99),
            "post_mean_ms": round(statistics.mean(posts) * 1000, 2),
            "first_worker_event_p50_ms": quantile_ms(firsts, 0.5),
            "first_worker_event_p99_ms": quantile_ms(firsts, 0.99),
        },
    )


async def first_worker_event(client: LeanClient, run_id: str) -> float:
    """When the log committed it, by the database's clock, which is this machine's."""
    deadline = time.perf_counter() + END_SECONDS_MAX
    while time.perf_counter() < deadline:
        _, answer = await client.call("GET", f"/api/chat/runs/{run_id}/events")
        events = json.loads(answer)["data"]
        if events[-1]["type"] == "run.sandbox_released.v1":
            return datetime.fromisoformat(events[1]["at"]).timestamp()
        await asyncio.sleep(PAUSE_SECONDS)
    raise SystemExit(f"run {run_id} did not end")


def main() -> None:
    with stack(SANDBOX="none") as details:
        asyncio.run(measure(details))


if __name__ == "__main__":
    main()
