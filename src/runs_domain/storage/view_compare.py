"""One of several processes that hold ranges of views against the log, all at one moment."""

import gc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec
import psycopg

from runs_domain.errors import ContentErased, HistoryCorrupt
from runs_domain.ids import AccountId, Position, RunId
from runs_domain.keys import ServerSecrets
from runs_domain.ports import Recorded
from runs_domain.settings import Secret
from runs_domain.storage.long_work import IN_ORDER, SyncConnection, connect, told
from runs_domain.storage.rebuild_pool import Report
from runs_domain.storage.run_streams import Batch, Range, RunStreams, Unreadable
from runs_domain.storage.view import Keys, Row, View
from runs_domain.storage.view_folds import CannotFold, folded
from runs_domain.storage.views import named

NAME: Final = "runledger view check"
ROWS_AT_ONCE: Final = 256
"""Of a view, in memory beside what they are compared with."""
DIGEST_CHARACTERS: Final = 16
CONTENT: Final = "sealed"
"""The column that holds content: it is compared unsealed, and never told."""
UNOPENED: Final = "cannot be opened"

Kind: TypeAlias = Literal["changed", "missing", "extra"]


class Difference(msgspec.Struct, frozen=True):
    """A row of a view that is not what the fold says: `missing` in the view, `extra` in it, or
    `changed`. `columns`: as it is in the view, then as it should be; None = nothing there.
    """

    view: str
    kind: Kind
    key: tuple[str, ...]
    columns: dict[str, tuple[str | None, str | None]]


class Counts(msgspec.Struct, frozen=True):
    same: int = 0
    changed: int = 0
    missing: int = 0
    extra: int = 0
    unreadable: int = 0
    """Rows that a run of an erased account still has: nobody can open them, and a rebuild brings
    none of them over. No difference.
    """

    @property
    def differing(self) -> int:
        return self.changed + self.missing + self.extra

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            *(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__)
        )


class CompareJob(msgspec.Struct, frozen=True):
    url: Secret
    secrets: ServerSecrets
    snapshot: str
    """The name of the moment."""
    checkpoints: Mapping[str, Position]
    """By view."""
    upto: Position
    changed_after: Position | None
    parts: tuple[tuple[Range, ...], ...]
    """One a process."""
    limit: int


class Compared(msgspec.Struct, frozen=True):
    """Of one batch."""

    events: int
    runs: int
    counts: dict[str, Counts]
    differences: dict[str, list[Difference]]
    faults: list[str]
    faults_count: int


def compare(job: CompareJob, number: int, report: Report) -> None:
    """Reports a Compared a batch. Raises StoreUnavailable, ServerFailed."""
    log, side, moment = (connect(job.url, name=NAME, parameters=IN_ORDER) for _ in range(3))
    try:
        moment.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        moment.execute(f"SET TRANSACTION SNAPSHOT '{job.snapshot}'".encode())
        comparison = _Comparison(job, log, side, moment)
        for some in job.parts[number]:
            for compared in comparison.of_range(some):
                report(compared)
            gc.collect()
    except psycopg.Error as error:
        raise told(error, "comparing", NAME) from error
    finally:
        for connection in (log, side, moment):
            connection.close()


class _Comparison:
    def __init__(
        self, job: CompareJob, log: SyncConnection, side: SyncConnection, moment: SyncConnection
    ) -> None:
        self._job = job
        self._views = named(tuple(job.checkpoints))
        content = any(view.needs_content for view in self._views)
        self._streams = RunStreams(
            log, side, job.secrets, content=content, on_unreadable=self._unreadable
        )
        self._moment = moment
        self._told = {view.name: 0 for view in self._views}
        self._left_out: set[RunId] = set()
        """Unreadable runs whose rows were not passed yet: a batch may end before its last one."""
        self._begin()

    def _begin(self) -> None:
        self._counts = {view.name: Counts() for view in self._views}
        self._differences: dict[str, list[Difference]] = {view.name: [] for view in self._views}
        self._faults: list[str] = []

    def of_range(self, some: Range) -> Iterator[Compared]:
        first = some.first
        for batch in self._streams.in_range(some, self._job.upto):
            if not batch.streams:
                continue  # its rows are looked at with the next one's, and left out
            last = batch.streams[-1].run_id
            yield self._compared(batch, first, last)
            first = UUID(int=last.int + 1) if last.int < some.last.int else last
            if last == some.last:
                return
        yield self._compared(Batch([], {}, 0), first, some.last)

    def _compared(self, batch: Batch, first: UUID, last: UUID) -> Compared:
        for view in self._views:
            self._compare(view, batch, first, last)
        compared = Compared(
            events=batch.events,
            runs=len(batch.streams),
            counts=self._counts,
            differences=self._differences,
            faults=self._faults[: self._job.limit],
            faults_count=len(self._faults),
        )
        self._left_out = {run_id for run_id in self._left_out if run_id > last}
        self._begin()
        return compared

    def _compare(self, view: View, batch: Batch, first: UUID, last: UUID) -> None:
        """The rows of the view from run to run against the folds of the batch, which are theirs."""
        places = [list(view.columns).index(name) for name in view.key]
        expected: dict[Row, Row] = {}
        owners = {stream.run_id: stream.events[0].subject for stream in batch.streams}
        skipped: set[RunId] = set(self._left_out)
        looked_at: set[RunId] = set()
        for stream in batch.streams:
            after = self._job.changed_after
            if after is not None and stream.events[-1].position <= after:
                continue
            looked_at.add(stream.run_id)
            try:
                for row in self._folded(view, stream.events, batch.keys):
                    expected[tuple(row[place] for place in places)] = row
            except CannotFold as error:
                self._faults.append(str(error))
                skipped.add(stream.run_id)
        tally = dict.fromkeys(Counts.__struct_fields__, 0)
        for row, keys in self._rows(view, first, last, batch.keys):
            run_id = row[0]
            if run_id in skipped or (
                self._job.changed_after is not None and run_id not in looked_at
            ):
                continue
            should = expected.pop(tuple(row[place] for place in places), None)
            tally[self._held(view, row, should, keys, owners.get(run_id))] += 1
        for should in expected.values():
            tally["missing"] += 1
            self._differs(view, "missing", None, should, batch.keys)
        self._counts[view.name] = Counts(**tally)

    def _folded(self, view: View, stream: Sequence[Recorded], keys: Keys) -> Sequence[Row]:
        """As at the view's checkpoint; that the rest can be folded too is tried by the way."""
        checkpoint = self._job.checkpoints[view.name]
        if stream[-1].position <= checkpoint:
            return folded(view, stream, keys)
        folded(view, stream, keys)
        return folded(view, [one for one in stream if one.position <= checkpoint], keys)

    def _rows(self, view: View, first: UUID, last: UUID, keys: Keys) -> Iterator[tuple[Row, Keys]]:
        columns, order = ", ".join(view.columns), ", ".join(view.key)
        sql = (
            f"SELECT {columns} FROM {view.name}"  # noqa: S608 - no values
            f" WHERE run_id BETWEEN %s AND %s ORDER BY {order}"
        )
        with self._moment.cursor(binary=True) as cursor:
            some: list[Row] = []
            for row in cursor.stream(sql, (first, last)):
                some.append(row)
                if len(some) == ROWS_AT_ONCE:
                    yield from self._with_keys(view, some, keys)
                    some = []
        yield from self._with_keys(view, some, keys)

    def _with_keys(self, view: View, rows: Sequence[Row], keys: Keys) -> Iterator[tuple[Row, Keys]]:
        if view.needs_content:
            account = list(view.columns).index("account_id")
            strange = {row[account] for row in rows} - keys.keys()
            keys = {**keys, **self._streams.keys_of(strange)} if strange else keys
        for row in rows:
            yield row, keys

    def _held(
        self, view: View, row: Row, should: Row | None, keys: Keys, owner: AccountId | None
    ) -> str:
        """What to count a row of the view as; `owner` is whose run it is, by its stream."""
        try:
            is_ = view.comparable(row, keys)
        except ContentErased:
            # Under any other account the row is not the run's: nobody sealed it there.
            if should is None and row[list(view.columns).index("account_id")] == owner:
                return "unreadable"
            is_ = None
        except HistoryCorrupt:
            is_ = None
        if should is None:
            self._differs(view, "extra", row, None, keys)
            return "extra"
        if is_ is not None and is_ == view.comparable(should, keys):
            return "same"
        self._differs(view, "changed", row, should, keys)
        return "changed"

    def _differs(
        self, view: View, kind: Kind, row: Row | None, should: Row | None, keys: Keys
    ) -> None:
        if self._told[view.name] >= self._job.limit:
            return
        self._told[view.name] += 1
        some = row if row is not None else should
        assert some is not None  # noqa: S101 - one of them is there
        is_, ought = _texts(view, row, keys), _texts(view, should, keys)
        self._differences[view.name].append(
            Difference(
                view=view.name,
                kind=kind,
                key=tuple(
                    _text(value)
                    for name, value in zip(view.columns, some, strict=True)
                    if name in view.key
                ),
                columns={
                    name: (is_[name], ought[name])
                    for name in view.columns
                    if is_[name] != ought[name]
                },
            )
        )

    def _unreadable(self, run_id: RunId, error: Unreadable) -> None:
        self._faults.append(str(error))
        self._left_out.add(run_id)


def _texts(view: View, row: Row | None, keys: Keys) -> dict[str, str | None]:
    if row is None:
        return dict.fromkeys(view.columns)
    try:
        opened = view.comparable(row, keys)
    except (HistoryCorrupt, ContentErased):
        opened = tuple(
            UNOPENED if name == CONTENT else value
            for name, value in zip(view.columns, row, strict=True)
        )
    return {
        name: _digest(value) if name == CONTENT and value != UNOPENED else _text_or_none(value)
        for name, value in zip(view.columns, opened, strict=True)
    }


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str | UUID):
        return str(value)
    return msgspec.json.encode(value, order="sorted").decode()


def _digest(content: Any) -> str:
    """Of a message, so that two can be told apart and neither can be read."""
    text = msgspec.json.encode(content, order="sorted")
    return "sha256:" + hashlib.sha256(text).hexdigest()[:DIGEST_CHARACTERS]
