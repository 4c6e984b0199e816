"""One run's stream for those who look back: from the log and the data keys alone, and as far as it
can be read, so that an event of a newer release, or a changed one, does not hide those before it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from runs_domain.as_of import Point, cut
from runs_domain.errors import HistoryCorrupt, RunNotFound
from runs_domain.ids import RunId
from runs_domain.ports import BEFORE_FIRST, Recorded, Stored
from runs_domain.storage import codec
from runs_domain.storage.codec import Envelope, StoredRow
from runs_domain.storage.connection import Fetches
from runs_domain.storage.lean_reads import stream_page
from runs_domain.storage.sealing import DataKeys

PAGE_EVENTS_MAX: Final = 1_000


class RunHistory(NamedTuple):
    stored: tuple[Stored, ...]
    """Up to the point that was asked for, or to the first that cannot be opened."""
    stream: tuple[Recorded, ...]
    """Those of them that stand before the first that is not understood."""
    trouble: HistoryCorrupt | None
    """Why there are not more; it names the version. UnknownEvent: a newer release's tag."""


async def read_history(
    connection: Fetches, data_keys: DataKeys, run_id: RunId, point: Point | None = None
) -> RunHistory:
    """Raises RunNotFound, NoSuchPoint, StoreUnavailable; HistoryCorrupt or UnknownSecretVersion
    where the account's data key cannot be had.
    """
    rows = await _rows(connection, run_id)
    if not rows:
        raise RunNotFound(f"the log has no run {run_id}")
    opened, trouble = _opened(rows)
    wanted: Sequence[Envelope] = opened
    if point is not None and (trouble is None or _reaches(opened, point)):
        wanted, trouble = cut(opened, point), None
    keys = await data_keys.for_reading(one.subject for one in wanted if one.sealed)
    stored: list[Stored] = []
    stream: list[Recorded] = []
    unread: HistoryCorrupt | None = None
    for row, envelope in zip(rows, wanted, strict=False):
        key = keys.get(envelope.subject)
        try:
            stored.append(codec.stored(row, envelope, key))
        except HistoryCorrupt as error:
            return RunHistory(tuple(stored), tuple(stream), unread or error)
        if unread is None:
            try:
                stream.append(codec.decode(row, envelope, key))
            except HistoryCorrupt as error:
                unread = error
    return RunHistory(tuple(stored), tuple(stream), unread or trouble)


async def _rows(connection: Fetches, run_id: RunId) -> list[StoredRow]:
    rows: list[StoredRow] = []
    last = BEFORE_FIRST
    while page := await stream_page(connection, run_id, last, PAGE_EVENTS_MAX):
        rows += page
        last = page[-1].version
    return rows


def _opened(rows: Sequence[StoredRow]) -> tuple[list[Envelope], HistoryCorrupt | None]:
    envelopes: list[Envelope] = []
    for row in rows:
        try:
            envelopes.append(codec.open_row(row))
        except HistoryCorrupt as error:
            return envelopes, error
    return envelopes, None


def _reaches(opened: Sequence[Envelope], point: Point) -> bool:
    """Whether the point lies among what could be opened, whatever comes after that."""
    if not opened:
        return False
    last = opened[-1]
    return last.at > point if isinstance(point, datetime) else last.version >= point
