"""A worker is lost or told to stop in the middle of a run: how long until another one goes on?

The real product: API, two workers, driver, event log; the run makes steps of STEP_SECONDS, each a
model call and a tool call. `kill_9`: from SIGKILL to the next attempt's first event. `sigterm`:
from the end of the step in hand to the next attempt's first event. Times of events are the
database's, whose clock is this machine's.

`arq`: a job of arq 0.28's own Worker killed likewise, until another Worker begins it. That takes
its job_timeout + 10 s, 310 s by default; measured with ARQ_TIMEOUT_SECONDS, or `--full` with 300.

`--minutes N`: instead, one job of N minutes beside an idle worker, its event loop blocked for 8 s
now and then: it must begin once.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from scripts.bench_parts._arq_crash import GRACE_SECONDS, crash
from scripts.bench_parts._live_job import live_job
from scripts.bench_parts.lib import LeanClient, emit, stack
from workers.stack.places import Places
from workers.stack.processes import Process
from workers.stack.servers import Servers

TIMES: Final = 7
LEASES_SECONDS: Final = (3, 1)
STEPS: Final = 200
STEP_SECONDS: Final = 0.1
WORDS_A_STEP: Final = 5
STEPS_BEFORE: Final = 3
ARQ_TIMEOUT_SECONDS: Final = 5
ARQ_DEFAULT_TIMEOUT_SECONDS: Final = 300
LOOK_SECONDS: Final = 0.02
END_SECONDS_MAX: Final = 60.0

Events = list[dict[str, Any]]


def body() -> bytes:
    """A run of many short steps; the tool is not there, so its call ends at once."""
    text = " ".join(["word"] * WORDS_A_STEP)
    delta_ms = int(STEP_SECONDS * 1000 / WORDS_A_STEP)
    step = {"text": text, "delta_ms": delta_ms, "tools": [{"name": "nothing"}]}
    playbook = json.dumps({"calls": [step] * STEPS})
    return json.dumps({"prompt": playbook, "model": "scripted/playbook"}).encode()


class Workers:
    """Two that are ready; who has gone is replaced."""

    def __init__(self, details: dict[str, Any]) -> None:
        self._places = Places(Path(details["env"]["RUNLEDGER_DATA_DIR"]))
        self._environment = dict(os.environ) | details["env"]
        self._live: dict[int, Process] = {}
        self._started = 0

    def fill(self) -> None:
        while len(self._live) < 2:
            self._started += 1
            name = f"bench-worker-{self._started}"
            worker = Process(name, "worker", self._places, self._environment)
            worker.start()
            worker.wait_until_ready()
            self._live[worker.child.pid] = worker

    def lose(self, pid: int, number: signal.Signals) -> None:
        self._live.pop(pid).child.kill(number)

    def stop(self) -> None:
        for worker in self._live.values():
            worker.stop()


@contextmanager
def bench(lease_seconds: int) -> Iterator[tuple[dict[str, Any], Workers]]:
    with stack(0, SANDBOX="none", LEASE_SECONDS=str(lease_seconds)) as details:
        workers = Workers(details)
        try:
            yield details, workers
        finally:
            workers.stop()


async def once(
    client: LeanClient, workers: Workers, number: signal.Signals, jitter: float
) -> float:
    """Seconds without the run: see above."""
    workers.fill()
    status, answer = await client.call("POST", "/api/chat/runs", body())
    if status != 202:
        raise SystemExit(f"POST answered {status}: {answer!r}")
    run_id = json.loads(answer)["runId"]
    events = await reached(client, run_id, "message_persisted", STEPS_BEFORE * 2)
    await asyncio.sleep(random.uniform(0, jitter))  # noqa: S311 - anywhere in step and lease
    begin = time.time()
    workers.lose(int(events[-1]["actor"].split(":")[2]), number)
    events = await reached(client, run_id, "resumed")
    index = next(at for at, one in enumerate(events) if one["type"] == "run.resumed.v1")
    if number is signal.SIGTERM:
        begin = moment(events[index - 1])
    await client.call("POST", f"/api/chat/runs/{run_id}/cancel")
    await reached(client, run_id, "sandbox_released")
    return moment(events[index]) - begin


async def often(
    details: dict[str, Any], workers: Workers, number: signal.Signals, jitter: float
) -> list[float]:
    client = await LeanClient(details["baseUrl"], details["apiKey"]).open()
    took = [await once(client, workers, number, jitter) for _ in range(TIMES)]
    client.close()
    return took


async def reached(client: LeanClient, run_id: str, what: str, times: int = 1) -> Events:
    """The run's events, once there are so many of this type."""
    deadline = time.perf_counter() + END_SECONDS_MAX
    while time.perf_counter() < deadline:
        _, answer = await client.call("GET", f"/api/chat/runs/{run_id}/events")
        events: Events = json.loads(answer)["data"]
        if sum(event["type"] == f"run.{what}.v1" for event in events) >= times:
            return events
        await asyncio.sleep(LOOK_SECONDS)
    raise SystemExit(f"run {run_id} has too few {what}")


def moment(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


def measure(lease_seconds: int, number: signal.Signals) -> dict[str, Any]:
    with bench(lease_seconds) as (details, workers):
        took = asyncio.run(often(details, workers, number, lease_seconds / 2))
    return {
        "times": TIMES,
        "median_ms": round(statistics.median(took) * 1000, 1),
        "max_ms": round(max(took) * 1000, 1),
    }


async def arq(job_timeout_seconds: int) -> dict[str, Any]:
    with on_valkey() as url:
        seconds = await crash(url, job_timeout_seconds)
    return {
        "job_timeout_s": job_timeout_seconds,
        "restarted_after_s": round(seconds, 1),
        "formula": f"job_timeout + {GRACE_SECONDS} s",
        "by_default_s": ARQ_DEFAULT_TIMEOUT_SECONDS + GRACE_SECONDS,
    }


@contextmanager
def on_valkey() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rl-bench-") as folder:
        valkey = Servers(Path(folder)).valkey
        valkey.start()
        try:
            yield valkey.url()
        finally:
            valkey.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    if given.minutes is not None:
        with on_valkey() as url:
            emit("live_job", asyncio.run(live_job(url, given.minutes * 60)))
        return
    figures: dict[str, Any] = {"step_ms": round(STEP_SECONDS * 1000)}
    for lease in LEASES_SECONDS:
        figures[f"kill_9_lease_{lease}_s"] = measure(lease, signal.SIGKILL)
    figures["sigterm"] = measure(LEASES_SECONDS[0], signal.SIGTERM)
    timeout = ARQ_DEFAULT_TIMEOUT_SECONDS if given.full else ARQ_TIMEOUT_SECONDS
    figures["arq"] = asyncio.run(arq(timeout))
    median_s = figures[f"kill_9_lease_{LEASES_SECONDS[0]}_s"]["median_ms"] / 1000
    default_s = figures["arq"]["by_default_s"]
    figures["arq_default_over_ours"] = round(default_s / median_s, 1)
    emit("failover", figures)


if __name__ == "__main__":
    main()
