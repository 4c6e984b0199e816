"""Which runs are checked, in parts for several processes, and what the log as a whole must have.

Everything here is asked of one snapshot, whose moment the checking processes take over.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar

from runs_domain.ids import AccountId, RunId
from runs_domain.storage.history_check import Part, Places
from runs_domain.storage.snapshot import Snapshot

SAMPLE_PAGES: Final = 1_000
PART_BYTES: Final = 16 * 1024 * 1024
PARTS_MAX: Final = 4_096
PARTS_A_WORKER_MIN: Final = 4
"""So that all of them end at about the same time."""
RUNS_A_PART: Final = 500
"""Of runs that are looked up one by one."""
PLACES_BYTES: Final = 128 * 1024 * 1024
"""Of a row of places, which is looked at in a second or two."""
QUIET_SECONDS_MAX: Final = 60.0
"""Of a process; one that says nothing for longer waits for a database that does not answer."""
SORT_SECONDS_MAX: Final = 3600.0
"""For sorting the whole log by place, which is done only if an index was taken away."""

T = TypeVar("T")

# Whoever holds the moment for others is idle all the while.
_MOMENT: Final = """
    SELECT pg_export_snapshot(), set_config('idle_in_transaction_session_timeout', '0', false)"""
# A partitioned table has no pages of its own.
_SIZES: Final = """
    SELECT coalesce(sum(pg_relation_size(oid)), 0)::bigint / current_setting('block_size')::int,
           coalesce(sum(pg_table_size(oid)), 0)::bigint
    FROM pg_class
    WHERE oid = 'stored_events'::regclass
        OR oid IN (SELECT relid FROM pg_partition_tree('stored_events'))"""
_SAMPLE: Final = """
    SELECT originator_id, notification_id FROM stored_events TABLESAMPLE SYSTEM (%b::real)
    WHERE originator_id IS NOT NULL AND notification_id IS NOT NULL"""
_OF_ACCOUNT: Final = """
    SELECT run_id, requested_position FROM run_heads
    WHERE account_id = %b::uuid AND requested_position > %b::bigint
    ORDER BY requested_position LIMIT %b::bigint"""
_INDEXES: Final = """
    SELECT count(*) > 0,
           count(*) FILTER (WHERE indisunique AND indnkeyatts = 1) > 0
    FROM pg_index
    JOIN pg_attribute AS of_table ON attrelid = indrelid AND attname = 'notification_id'
    WHERE indrelid = 'stored_events'::regclass AND indisvalid
        AND indpred IS NULL AND indexprs IS NULL AND indkey[0] = of_table.attnum"""


class Plan(NamedTuple):
    moment: str
    """The exported snapshot: it lasts as long as the one that was asked."""
    parts: Sequence[Part | Places]
    events: int | None = None
    """About so many, if that can be said without counting them."""
    quiet_seconds_max: float = QUIET_SECONDS_MAX
    keeps_places_apart: bool = True
    """Whether an index forbids that a position stands there twice; it is looked for anyway."""


async def all_runs(snapshot: Snapshot, workers: int) -> Plan:
    moment = await _moment_of(snapshot)
    pages, size = (await snapshot.fetch(_SIZES))[0]
    in_order, apart = (await snapshot.fetch(_INDEXES))[0]
    percent = 100.0 if pages <= SAMPLE_PAGES else 100.0 * SAMPLE_PAGES / pages
    sample = await snapshot.fetch(_SAMPLE, (percent,))
    wanted = max(workers * PARTS_A_WORKER_MIN, min(size // PART_BYTES, PARTS_MAX))
    runs = _bounds([run for run, _ in sample], wanted)
    # Each row of places begins with the last place of the one before, so that they are held to
    # each other too; what has no order is sorted once.
    wanted = min(size // PLACES_BYTES, PARTS_MAX) + 1 if in_order else 1
    places = _bounds([place for _, place in sample], wanted)
    return Plan(
        moment,
        _mixed(
            [Part(after, until) for after, until in pairwise((None, *runs, None))],
            [Places(first, last) for first, last in pairwise((None, *places, None))],
        ),
        events=round(len(sample) * 100 / percent),
        quiet_seconds_max=QUIET_SECONDS_MAX if in_order else SORT_SECONDS_MAX,
        keeps_places_apart=apart,
    )


def _bounds(sample: list[T], wanted: int) -> list[T]:
    """Between so many parts of about one size: few of them if the sample is small."""
    values: list[Any] = sorted(sample)
    return sorted({values[len(values) * i // wanted] for i in range(1, wanted)} if values else ())


def _mixed(runs: Sequence[Part], places: Sequence[Places]) -> list[Part | Places]:
    """Evenly, so that what is still to do can be told by what was done."""
    every: list[tuple[float, Part | Places]] = [
        *((i / len(runs), part) for i, part in enumerate(runs)),
        *((i / len(places), part) for i, part in enumerate(places)),
    ]
    return [part for _, part in sorted(every, key=lambda one: one[0])]


async def runs_of_account(snapshot: Snapshot, account: AccountId) -> Plan:
    """By their heads: a run whose head names another account is not among them."""
    moment = await _moment_of(snapshot)
    parts: list[Part] = []
    after = 0
    while rows := await snapshot.fetch(_OF_ACCOUNT, (account, after, RUNS_A_PART)):
        parts.append(Part(runs=tuple(run for run, _ in rows)))
        after = rows[-1][1]
    return Plan(moment, parts)


async def named_runs(snapshot: Snapshot, runs: Sequence[RunId]) -> Plan:
    moment = await _moment_of(snapshot)
    wanted: list[Any] = sorted(set(runs))
    parts = [
        Part(runs=tuple(wanted[at : at + RUNS_A_PART])) for at in range(0, len(wanted), RUNS_A_PART)
    ]
    return Plan(moment, parts)


async def _moment_of(snapshot: Snapshot) -> str:
    return str((await snapshot.fetch(_MOMENT))[0][0])
