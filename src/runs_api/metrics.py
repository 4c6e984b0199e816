"""What `/metrics` tells a Prometheus server: jobs, views, and whether the parts answer.

Every label has few values that are known beforehand; no account, run or worker is one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from operator import attrgetter
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from runs_domain.errors import QueueUnavailable, StoreUnavailable
from runs_domain.ports import Clock
from runs_domain.storage.fleet_counters import FLEET_COUNTERS
from runs_domain.storage.job_stats import JobStats
from runs_domain.storage.store_stats import StoreStats
from runs_domain.storage.view_stats import ViewStats

KEPT_SECONDS: Final = 1.0
"""However many ask, the parts are asked once in this time."""
PART_SECONDS_MAX: Final = 2.0

T = TypeVar("T")

ReadStats = Callable[[], Awaitable[JobStats]]
"""Raises QueueUnavailable."""
ReadStore = Callable[[], Awaitable[StoreStats]]
"""Raises StoreUnavailable."""


class Metrics:
    def __init__(self, read_stats: ReadStats, read_store: ReadStore, clock: Clock) -> None:
        self._read_stats = read_stats
        self._read_store = read_store
        self._clock = clock
        self._text = b""
        self._good_until = 0.0
        self._asking = asyncio.Lock()

    async def text(self) -> bytes:
        """Prometheus text. Never raises: what cannot be read is absent, and its part is down."""
        async with self._asking:
            if self._clock.monotonic_seconds() >= self._good_until:
                stats, store = await asyncio.gather(
                    _answered(self._read_stats), _answered(self._read_store)
                )
                registry = CollectorRegistry(auto_describe=False)
                registry.register(_Reading(stats, store))
                self._text = generate_latest(registry)
                self._good_until = self._clock.monotonic_seconds() + KEPT_SECONDS
            return self._text


async def _answered(read: Callable[[], Awaitable[T]]) -> T | None:
    """None = the part does not answer."""
    try:
        async with asyncio.timeout(PART_SECONDS_MAX):
            return await read()
    except (QueueUnavailable, StoreUnavailable, TimeoutError):
        return None


class _Reading(Collector):
    def __init__(self, stats: JobStats | None, store: StoreStats | None) -> None:
        """None = the part does not answer."""
        self._stats = stats
        self._store = store

    @override
    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("runledger_up", "1 = the part answers this API", labels=["part"])
        up.add_metric(["postgres"], self._store is not None)
        up.add_metric(["redis"], self._stats is not None)
        yield up
        if self._store is not None:
            yield from _unfinished(self._store)
            yield from _views(self._store.views)
        if self._stats is not None:
            yield from _gauges(self._stats)
            for name, count in self._stats.counters.items():
                yield CounterMetricFamily(f"runledger_{name}", FLEET_COUNTERS[name], value=count)


def _unfinished(store: StoreStats) -> Iterator[Metric]:
    for name, what, value in (
        ("dead_letters_open", "Dead letters that no operator has closed", store.open_letters),
        (
            "runs_open",
            "Runs that are not at their end, wherever their job is, but withheld ones",
            store.open_runs,
        ),
        (
            "runs_still_seconds_max",
            "Since the last event of the open run that is still for longest; 0 = none is open",
            store.still_seconds_max,
        ),
    ):
        yield GaugeMetricFamily(f"runledger_{name}", what, value=value)


def _views(views: Sequence[ViewStats]) -> Iterator[Metric]:
    if not views:
        return
    yield GaugeMetricFamily(
        "runledger_log_position", "Of the last event of the log", value=views[0].head
    )
    for name, what, value in (
        ("position", "Of the last event of the log that is in the view", attrgetter("position")),
        (
            "behind_positions",
            "Positions of the log that are not in the view: at least as many as events",
            attrgetter("behind"),
        ),
        (
            "behind_seconds",
            "Since the oldest event that is not in the view; 0 = all are",
            attrgetter("behind_seconds"),
        ),
        ("stopped", "1 = the view waits before an event that it cannot take", _is_stopped),
    ):
        gauge = GaugeMetricFamily(f"runledger_view_{name}", what, labels=["view"])
        for view in views:
            if value(view) is not None:
                gauge.add_metric([view.name], value(view))
        yield gauge


def _is_stopped(view: ViewStats) -> float:
    return float(view.is_stopped)


def _gauges(stats: JobStats) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("runledger_jobs", "Jobs by where they are", labels=["state"])
    for state in ("queued", "taken", "waiting", "delayed", "held"):
        jobs.add_metric([state], getattr(stats, state))
    yield jobs
    live = [one for one in stats.workers if one.silent_seconds is not None]
    for name, what, value in (
        (
            "jobs_oldest_queued_seconds",
            "How long the oldest job stands there that nobody has begun; 0 = there is none",
            stats.oldest_queued_seconds or 0.0,
        ),
        (
            "jobs_lease_age_seconds_max",
            "Since the longest silent lease was renewed",
            max((one.lease_age_seconds for one in stats.workers), default=0.0),
        ),
        ("jobs_accounts", "Accounts that have jobs", stats.accounts),
        ("workers", "Workers that have spoken lately", len(live)),
        ("worker_slots", "Slots of all live workers", stats.slots),
        ("worker_slots_used", "Of them, those that run a job", sum(one.running for one in live)),
    ):
        yield GaugeMetricFamily(f"runledger_{name}", what, value=value)
