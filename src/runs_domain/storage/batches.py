"""A batch of the log as views take it: by run, and back as columns of one statement."""

from collections.abc import Iterable, Sequence
from typing import Any

from runs_domain.ids import RunId
from runs_domain.ports import Recorded


def by_run(batch: Iterable[Recorded]) -> dict[RunId, list[Recorded]]:
    """Each run's events in order, so that a batch is one change a run however many there are."""
    streams: dict[RunId, list[Recorded]] = {}
    for recorded in batch:
        streams.setdefault(recorded.run_id, []).append(recorded)
    return streams


def columns_of(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """For `unnest`: one array a column."""
    return [list(column) for column in zip(*rows, strict=True)]
