"""What all workers count together, in one Redis hash: it goes up until Redis is wiped."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

FLEET_COUNTERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "jobs_finished": "Jobs that came to their end",
        "jobs_retried": "Jobs given back to be tried again after a pause",
        "jobs_handed_over": "Jobs given back by workers that were stopping",
        "jobs_unfit": "Jobs given back by workers without an adapter for their model",
        "jobs_reclaimed": "Jobs taken over after their lease had run out",
        "jobs_leases_lost": "Leases that another worker took, or that ran out, under a running job",
        "jobs_garbage": "Entries of the job stream that were dropped: no job of ours",
        "jobs_redis_failures": "Times that a worker could not reach Redis for its jobs",
        "dead_letters_tries_exhausted": "Runs that were given up because their tries were used up",
        "dead_letters_broken": "Jobs that were given up because they broke again and again",
        "driver_unknown_runs": "Jobs of runs that the event log does not know, dropped",
        "driver_ended_runs": "Jobs of runs that had ended before, dropped",
        "driver_left_alone": "Times that a worker left a run to another that was faster",
        "reconciler_ticks": "Looks at the open runs",
        "reconciler_failed_ticks": "Looks at the open runs that failed",
        "reconciler_resent": "Runs without a job that were sent again",
    }
)
"""`<who counts>_<field>` → what it says. What is not listed here is not shown."""


def counters_of(told: Mapping[bytes, bytes]) -> dict[str, int]:
    """Every listed counter; 0 for one that nobody has told of."""
    return {name: int(told.get(name.encode(), b"0")) for name in FLEET_COUNTERS}
