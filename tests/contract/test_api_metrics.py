"""`GET /metrics`: what Prometheus reads of the job system, also while parts are away."""

import asyncio
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from runs_domain.ids import Position
from runs_domain.storage.fleet_counters import FLEET_COUNTERS
from runs_domain.storage.job_stats import AccountJobs, JobStats, WorkerJobs
from runs_domain.storage.store_stats import StoreStats
from runs_domain.storage.view_stats import ViewStats
from tests.support.api import NO_JOBS, Api

DOCUMENT = Path(__file__).parents[2] / "docs" / "ops" / "metrics.md"
LABEL_VALUES = {"queued", "taken", "waiting", "delayed", "held", "postgres", "redis"}
VIEWS = (
    ViewStats("runs", Position(90), is_stopped=False, head=Position(90), behind_seconds=0.0),
    ViewStats("messages", Position(70), is_stopped=True, head=Position(90), behind_seconds=12.5),
    ViewStats("credits", Position(80), is_stopped=False, head=Position(90), behind_seconds=None),
)
WORKER = WorkerJobs(
    "host:1:canary", slots=4, running=3, leases=3, lease_age_seconds=0.5, silent_seconds=1.0
)
DEAD = WorkerJobs(
    "host:2:canary", slots=0, running=0, leases=1, lease_age_seconds=2.5, silent_seconds=None
)
BUSY: JobStats = replace(
    NO_JOBS,
    queued=1,
    taken=4,
    waiting=7,
    delayed=2,
    held=3,
    oldest_queued_seconds=1.5,
    slots=4,
    accounts=2,
    busiest=(AccountJobs("canary-account", 5, 7),),
    workers=(WORKER, DEAD),
    counters=NO_JOBS.counters | {"jobs_reclaimed": 6},
)

Samples = dict[tuple[str, str], float]
"""(name, label value) → value"""


async def samples(api: Api) -> Samples:
    answer = await api.get("/metrics", {})
    assert answer.status == 200
    assert re.fullmatch(
        r"text/plain; version=[\d.]+; charset=utf-8", answer.headers["content-type"]
    )
    found: Samples = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.documentation
        for sample in family.samples:
            assert len(sample.labels) <= 1
            found[sample.name, "".join(sample.labels.values())] = sample.value
    return found


async def test_it_tells_where_jobs_are_and_what_workers_counted() -> None:
    api = Api(stats=BUSY, unfinished=StoreStats(2, 9, 61.5, VIEWS))

    told = await samples(api)

    expected = {
        ("runledger_dead_letters_open", ""): 2,
        ("runledger_runs_open", ""): 9,
        ("runledger_runs_still_seconds_max", ""): 61.5,
        ("runledger_log_position", ""): 90,
        ("runledger_view_position", "runs"): 90,
        ("runledger_view_position", "messages"): 70,
        ("runledger_view_position", "credits"): 80,
        ("runledger_view_behind_positions", "runs"): 0,
        ("runledger_view_behind_positions", "messages"): 20,
        ("runledger_view_behind_positions", "credits"): 10,
        ("runledger_view_behind_seconds", "runs"): 0,
        ("runledger_view_behind_seconds", "messages"): 12.5,
        ("runledger_view_stopped", "runs"): 0,
        ("runledger_view_stopped", "messages"): 1,
        ("runledger_view_stopped", "credits"): 0,
        ("runledger_up", "postgres"): 1,
        ("runledger_up", "redis"): 1,
        ("runledger_jobs", "queued"): 1,
        ("runledger_jobs", "taken"): 4,
        ("runledger_jobs", "waiting"): 7,
        ("runledger_jobs", "delayed"): 2,
        ("runledger_jobs", "held"): 3,
        ("runledger_jobs_oldest_queued_seconds", ""): 1.5,
        ("runledger_jobs_lease_age_seconds_max", ""): 2.5,
        ("runledger_jobs_accounts", ""): 2,
        ("runledger_workers", ""): 1,
        ("runledger_worker_slots", ""): 4,
        ("runledger_worker_slots_used", ""): 3,
        ("runledger_jobs_reclaimed_total", ""): 6,
    }
    counters = {(f"runledger_{name}_total", ""): 0.0 for name in FLEET_COUNTERS}
    assert told == counters | expected


async def test_invariant_6_no_account_run_or_worker_is_named() -> None:
    api = Api(stats=BUSY)

    assert {label for _, label in await samples(api) if label} == LABEL_VALUES
    assert b"canary" not in (await api.get("/metrics", {})).body


async def test_a_stopped_view_does_not_keep_runs_from_being_accepted() -> None:
    api = Api(unfinished=StoreStats(0, 0, 0.0, VIEWS))

    assert (await api.get("/readyz", {})).status == 200


async def test_every_gauge_is_documented_and_every_documented_one_is_told() -> None:
    api = Api(stats=BUSY, unfinished=StoreStats(2, 9, 61.5, VIEWS))
    told = {name for name, _ in await samples(api) if not name.endswith("_total")}

    table = DOCUMENT.read_text("utf-8").partition("## Gauges")[2].partition("## Counters")[0]
    rows = [row.partition(" | ")[0] for row in table.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(runledger_\w+)", row)} == told


async def test_without_redis_its_samples_are_absent_and_it_is_down() -> None:
    api = Api(stats=BUSY)
    api.chunks.down = True

    assert await samples(api) == {
        ("runledger_dead_letters_open", ""): 0,
        ("runledger_runs_open", ""): 0,
        ("runledger_runs_still_seconds_max", ""): 0,
        ("runledger_up", "postgres"): 1,
        ("runledger_up", "redis"): 0,
    }


async def test_without_postgres_it_still_answers() -> None:
    api = Api(stats=BUSY)
    api.log.down = True

    told = await samples(api)

    assert told["runledger_up", "postgres"] == 0
    for name in ("dead_letters_open", "runs_open", "runs_still_seconds_max"):
        assert (f"runledger_{name}", "") not in told
    assert told["runledger_jobs", "taken"] == 4


async def test_a_part_that_does_not_answer_in_time_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runs_api.metrics.PART_SECONDS_MAX", 0.2)
    api = Api()

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(api, "_ask_queue", never)
    told = await samples(api)

    assert (told["runledger_up", "postgres"], told["runledger_up", "redis"]) == (1, 0)


async def test_invariant_12_however_many_ask_at_once_redis_is_asked_once_a_second() -> None:
    api = Api(stats=BUSY)

    await asyncio.gather(*(samples(api) for _ in range(20)))
    assert api.readings == 1

    api.clock.ahead = 1.0
    await samples(api)
    assert api.readings == 2
