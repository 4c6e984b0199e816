"""The runs of a log in ranges of about equally many events, which hold every id there can be."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from runs_domain.ids import Position
from runs_domain.storage.long_work import LONG_SECONDS_MAX, LongConnection
from runs_domain.storage.run_streams import Range

RANGE_EVENTS: Final = 50_000
"""What is taken in one go: half a second's work."""
FIRST_ID: Final = UUID(int=0)
LAST_ID: Final = UUID(int=2**128 - 1)

# Ordered by text as by id: hexadecimal digits at fixed places.
_PARTS: Final = """
SELECT min(run_id::text COLLATE "C")::uuid, sum(version)::bigint
FROM (
    SELECT run_id, version, (sum(version) OVER (ORDER BY run_id) - 1)::bigint / %s AS part
    FROM run_heads WHERE requested_position <= %s
) AS heads GROUP BY part ORDER BY 1
"""


async def plan(session: LongConnection, upto: Position) -> tuple[Range, ...]:
    """Of what the log holds up to a position, by its heads: a stream without a head is in a range
    too, though not counted. Raises StoreUnavailable, ServerFailed.
    """
    values = (RANGE_EVENTS, upto)
    parts = await session.fetch(_PARTS, values, seconds_max=LONG_SECONDS_MAX)
    return _between([first for first, _ in parts], [events for _, events in parts])


def _between(firsts: Sequence[UUID], events: Sequence[int]) -> tuple[Range, ...]:
    begins = [FIRST_ID, *firsts[1:]]
    ends = [*(UUID(int=first.int - 1) for first in firsts[1:]), LAST_ID]
    return tuple(
        Range(first, last, count)
        for first, last, count in zip(begins, ends, events or (0,), strict=True)
    )
