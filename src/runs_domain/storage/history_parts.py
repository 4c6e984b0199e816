"""Which runs are checked, in parts for several processes, and what the log as a whole must have.

Everything here is asked of one snapshot, whose moment the checking processes take over.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from runs_domain.ids import AccountId, RunId
from runs_domain.storage.history_check import Part
from runs_domain.storage.snapshot import Snapshot

SAMPLE_PAGES: Final = 1_000
PART_BYTES: Final = 16 * 1024 * 1024
PARTS_MAX: Final = 4_096
PARTS_A_WORKER_MIN: Final = 4
"""So that all of them end at about the same time."""
RUNS_A_PART: Final = 500
"""Of runs that are looked up one by one."""
DOUBLES_MAX: Final = 100

# Whoever holds the moment for others is idle all the while.
_MOMENT: Final = """
    SELECT pg_export_snapshot(), set_config('idle_in_transaction_session_timeout', '0', false)"""
_SIZES: Final = """
    SELECT pg_relation_size('stored_events') / current_setting('block_size')::int,
           pg_table_size('stored_events')"""
_SAMPLE: Final = """
    SELECT originator_id FROM stored_events TABLESAMPLE SYSTEM (%b::real) ORDER BY originator_id"""
_OF_ACCOUNT: Final = """
    SELECT run_id, requested_position FROM run_heads
    WHERE account_id = %b::uuid AND requested_position > %b::bigint
    ORDER BY requested_position LIMIT %b::bigint"""
_UNIQUE_POSITIONS: Final = """
    SELECT count(*) FROM pg_index
    JOIN pg_attribute AS of_table ON attrelid = indrelid AND attname = 'notification_id'
    WHERE indrelid = 'stored_events'::regclass AND indisunique AND indisvalid
        AND indpred IS NULL AND indexprs IS NULL
        AND indnkeyatts = 1 AND indkey[0] = of_table.attnum"""
_DOUBLES: Final = f"""
    SELECT notification_id FROM stored_events
    GROUP BY notification_id HAVING count(*) > 1 ORDER BY notification_id
    LIMIT {DOUBLES_MAX}"""  # noqa: S608 - our own number


class Plan(NamedTuple):
    moment: str
    """The exported snapshot: it lasts as long as the one that was asked."""
    parts: Sequence[Part]
    events: int | None
    """About so many, if that can be said without counting them."""


async def all_runs(snapshot: Snapshot, workers: int) -> Plan:
    moment = await _moment_of(snapshot)
    pages, size = (await snapshot.fetch(_SIZES))[0]
    percent = 100.0 if pages <= SAMPLE_PAGES else 100.0 * SAMPLE_PAGES / pages
    sample = [run for (run,) in await snapshot.fetch(_SAMPLE, (percent,))]
    wanted = max(workers * PARTS_A_WORKER_MIN, min(size // PART_BYTES, PARTS_MAX))
    bounds = sorted({sample[len(sample) * i // wanted] for i in range(1, wanted)} if sample else ())
    befores: list[UUID | None] = [None, *bounds]
    untils: list[UUID | None] = [*bounds, None]
    parts = [Part(after, until) for after, until in zip(befores, untils, strict=True)]
    return Plan(moment, parts, round(len(sample) * 100 / percent))


async def runs_of_account(snapshot: Snapshot, account: AccountId) -> Plan:
    """By their heads: a run whose head names another account is not among them."""
    moment = await _moment_of(snapshot)
    parts: list[Part] = []
    after = 0
    while rows := await snapshot.fetch(_OF_ACCOUNT, (account, after, RUNS_A_PART)):
        parts.append(Part(runs=tuple(run for run, _ in rows)))
        after = rows[-1][1]
    return Plan(moment, parts, None)


async def named_runs(snapshot: Snapshot, runs: Sequence[RunId]) -> Plan:
    moment = await _moment_of(snapshot)
    wanted: list[Any] = sorted(set(runs))
    parts = [
        Part(runs=tuple(wanted[at : at + RUNS_A_PART])) for at in range(0, len(wanted), RUNS_A_PART)
    ]
    return Plan(moment, parts, None)


async def keeps_positions_apart(snapshot: Snapshot) -> bool:
    """Whether an index of the database forbids that a position stands there twice."""
    return bool((await snapshot.fetch(_UNIQUE_POSITIONS))[0][0])


async def doubled_positions(snapshot: Snapshot) -> Sequence[int]:
    """The first ones that stand there more than once. Sorts the whole log: give it time."""
    return [position for (position,) in await snapshot.fetch(_DOUBLES)]


async def _moment_of(snapshot: Snapshot) -> str:
    return str((await snapshot.fetch(_MOMENT))[0][0])
