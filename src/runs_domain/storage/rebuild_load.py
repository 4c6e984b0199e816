"""Fills the shadows of views: one of several processes, each at another range of runs.

Rows and the mark that their range is loaded are one transaction, so that a kill at any moment
leaves whole ranges or nothing of them.
"""

import gc
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import msgspec
import psycopg
from psycopg import IsolationLevel, sql
from psycopg.adapt import Dumper
from psycopg.pq import Format
from typing_extensions import override

from runs_domain.ids import Position, RunId
from runs_domain.keys import ServerSecrets
from runs_domain.settings import Secret
from runs_domain.storage import rebuild_book
from runs_domain.storage.long_work import IN_ORDER, SyncConnection, connect, told
from runs_domain.storage.rebuild_pool import Report
from runs_domain.storage.rebuild_shadow import shadow_of
from runs_domain.storage.run_streams import Batch, Range, RunStreams
from runs_domain.storage.view import Row, View
from runs_domain.storage.view_folds import folded
from runs_domain.storage.views import named

NAME: Final = "runledger rebuild"
TRIES_MAX: Final = 100
"""Of a range whose transaction met another's; each meeting is a range that got done."""
COPY_BYTES: Final = 8 * 1024 * 1024
"""Of events, folded before their rows are written."""
_WRITING: Final = {**IN_ORDER, "synchronous_commit": "off"}
_JSONB_OID: Final = psycopg.adapters.types["jsonb"].oid


class LoadJob(msgspec.Struct, frozen=True):
    url: Secret
    secrets: ServerSecrets
    rebuild_id: UUID
    views: tuple[str, ...]
    pinned: Position
    changed_after: Position | None


class _JsonText:
    """Stands for JSON that is text already."""


class _JsonTextDumper(Dumper):
    format = Format.BINARY
    oid = _JSONB_OID

    @override
    def dump(self, obj: str) -> bytes:
        return b"\x01" + obj.encode()


def load(job: LoadJob, number: int, report: Report) -> None:
    """Load ranges until none is left; reports the events of each batch.

    Raises CannotFold, Unreadable, StoreUnavailable, ServerFailed.
    """
    del number
    views = named(job.views)
    log = connect(job.url, name=NAME, parameters=IN_ORDER)
    writer = connect(job.url, name=NAME, parameters=_WRITING)
    if job.changed_after is not None:
        writer.isolation_level = IsolationLevel.REPEATABLE_READ
    content = any(view.needs_content for view in views)
    loader = _Loader(job, views, RunStreams(log, writer, job.secrets, content=content), writer)
    try:
        while loader.load_one(report):
            gc.collect()
    except psycopg.Error as error:
        raise told(error, f"loading {', '.join(job.views)}", NAME) from error
    finally:
        log.close()
        writer.close()


class _Loader:
    def __init__(
        self, job: LoadJob, views: Sequence[View], streams: RunStreams, writer: SyncConnection
    ) -> None:
        self._job = job
        self._views = views
        self._streams = streams
        self._writer = writer
        self._others = {view.name: _others_sql(view) for view in views}
        self._copies = {
            view.name: sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
                sql.Identifier(shadow_of(view.name)),
                sql.SQL(", ").join(map(sql.Identifier, view.columns)),
            )
            for view in views
        }

    def load_one(self, report: Report) -> bool:
        """False if there is no range left that nobody is at."""
        for _ in range(TRIES_MAX):
            try:
                with self._writer.transaction():
                    some = rebuild_book.claim(self._writer, self._job.rebuild_id)
                    if some is None:
                        return False
                    self._load(some, report)
                    return True
            except psycopg.errors.SerializationFailure:
                continue  # it was claimed, loaded and committed just now
        return True

    def _load(self, some: Range, report: Report) -> None:
        events = size = 0
        rows: dict[str, list[Row]] = {view.name: [] for view in self._views}
        for batch in self._batches(some):
            for stream in batch.streams:
                for view in self._views:
                    rows[view.name] += folded(view, stream.events, batch.keys)
            size += batch.size
            if size >= COPY_BYTES:
                self._copy_all(rows)
                size = 0
            events += batch.events
            report(batch.events)
        self._copy_all(rows)
        rebuild_book.mark_loaded(self._writer, self._job.rebuild_id, some, events)

    def _copy_all(self, rows: dict[str, list[Row]]) -> None:
        for view in self._views:
            self._copy(view, rows[view.name])
            rows[view.name].clear()

    def _batches(self, some: Range) -> Iterator[Batch]:
        job = self._job
        if job.changed_after is None:
            return self._streams.in_range(some, job.pinned)
        runs = rebuild_book.changed_runs(self._writer, job.rebuild_id, some, job.pinned)
        self._copy_others(some, runs)
        return self._streams.among(runs, job.pinned)

    def _copy_others(self, some: Range, runs: Sequence[RunId]) -> None:
        """Rows of runs that have not changed, as they stand in the view."""
        where = {"first": some.first, "last": some.last, "runs": list(runs)}
        for statement in self._others.values():
            self._writer.execute(statement, where)

    def _copy(self, view: View, rows: Sequence[Row]) -> None:
        if not rows:
            return
        cursor = self._writer.cursor()
        cursor.adapters.register_dumper(_JsonText, _JsonTextDumper)
        with cursor.copy(self._copies[view.name]) as copy:
            copy.set_types(list(view.columns.values()))
            for row in rows:
                copy.write_row(row)


def _others_sql(view: View) -> sql.Composed:
    columns = sql.SQL(", ").join(map(sql.Identifier, view.columns))
    readable = sql.SQL(
        "NOT EXISTS (SELECT FROM account_data_keys AS key"
        " WHERE key.account_id = one.account_id AND key.wrapped IS NULL)"
        if view.needs_content
        else "true"
    )
    return sql.SQL(
        "INSERT INTO {shadow} ({columns}) SELECT {columns} FROM {view} AS one"
        " WHERE run_id BETWEEN %(first)s AND %(last)s AND run_id <> ALL(%(runs)s::uuid[])"
        " AND {readable} ORDER BY run_id"
    ).format(
        shadow=sql.Identifier(shadow_of(view.name)),
        view=sql.Identifier(view.name),
        columns=columns,
        readable=readable,
    )
