"""A batch of the log as views take it: by run, and back as columns of one statement."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from runs_domain.errors import ViewDamaged
from runs_domain.events import Requested
from runs_domain.ids import RunId
from runs_domain.ports import Recorded

GC_ALLOCATIONS: Final = 200_000
"""Of objects, less those freed, between two looks of the garbage collector."""


def collect_seldom() -> None:
    """For a process that folds many events: they make no cycles, and looking for some among them
    again and again took half of its time.
    """
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 100)


def by_run(batch: Iterable[Recorded]) -> dict[RunId, list[Recorded]]:
    """Each run's events in order, so that a batch is one change a run however many there are."""
    streams: dict[int, list[Recorded]] = {}  # an int is hashed and compared far faster than a UUID
    for recorded in batch:
        number = recorded.run_id.int
        stream = streams.get(number)
        if stream is None:
            streams[number] = [recorded]
        else:
            stream.append(recorded)
    return {stream[0].run_id: stream for stream in streams.values()}


def begun_before(streams: Mapping[RunId, Sequence[Recorded]]) -> list[RunId]:
    """Those of a batch's runs that have events before it."""
    return [run for run, some in streams.items() if not isinstance(some[0].event, Requested)]


def require_rows(table: str, runs: Sequence[RunId], known: Mapping[RunId, Any]) -> None:
    """Raises ViewDamaged unless `known`, of `table`, has something of each of `runs`."""
    missing = next((run for run in runs if run not in known), None)
    if missing is not None:
        raise ViewDamaged(f"{table} lacks its row of run {missing}")


def columns_of(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """For `unnest`: one array a column."""
    return [list(column) for column in zip(*rows, strict=True)]
