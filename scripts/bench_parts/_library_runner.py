"""The eventsourcing library's own ProjectionRunner on our log, as its documents set one up.

`python -m scripts.bench_parts._library_runner SECONDS`: it fills the table `library_runs`, a copy
of our `runs`, for so long, and prints one JSON object. It gets what helps it: the topics that
change a row and no others are asked for, events are decoded by our codec without their content,
and commits are not flushed (as our projector's are not).
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent, Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.conninfo import conninfo_to_dict
from typing_extensions import override

from runs_domain import events as e
from runs_domain.ids import Position, RunId, Version
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.recorder import LogEvent

TABLE = "library_runs"
TRACKING = "library_tracking"
APPLICATION = "stored"
"""The library names tables by it: `stored_events`."""
CHANGING = (e.Requested, e.Started, e.MessagePersisted, e.Completed, e.Failed, e.Cancelled)
BEGIN = f"""
INSERT INTO {TABLE} (run_id, account_id, chat_id, session_id, status, model, created_at, version,
    requested_position)
VALUES (%s, %s, %s, %s, 'queued', %s, %s, %s, %s)
"""  # noqa: S608 - our own name
START = f"UPDATE {TABLE} SET status = 'running', started_at = %s, version = %s WHERE run_id = %s"  # noqa: S608
GO_ON = f"UPDATE {TABLE} SET version = %s WHERE run_id = %s"  # noqa: S608
END = f"""
UPDATE {TABLE} SET status = %s, finished_at = %s, usage = %s, error_code = %s, error_message = %s,
    version = %s
WHERE run_id = %s
"""  # noqa: S608 - our own name
STATUS = {e.Completed: "completed", e.Failed: "failed", e.Cancelled: "cancelled"}


class OutlineMapper(Mapper[UUID]):
    """Our codec in the library's place: faster than its own transcoder."""

    def __init__(self) -> None:
        super().__init__(JSONTranscoder())

    @override
    def to_domain_event(self, stored_event: StoredEvent) -> LogEvent:
        row = StoredRow(
            run_id=RunId(UUID(str(stored_event.originator_id))),
            version=Version(stored_event.originator_version),
            tag=stored_event.topic,
            state=stored_event.state,
            position=Position(getattr(stored_event, "id", 0)),
        )
        recorded = codec.decode(row, codec.open_row(row), None, outline=True)
        return LogEvent(row.run_id, row.version, recorded, row.state)


class Log(Application[UUID]):
    name = APPLICATION

    @override
    def construct_mapper(self) -> Mapper[UUID]:
        return OutlineMapper()


class RunsView(PostgresTrackingRecorder):
    """Its row and the tracking in one transaction, as in the library's documents."""

    def write(self, sql: str, values: tuple[Any, ...], tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(sql.encode(), values, prepare=True)


class RunsProjection(Projection[RunsView]):
    name = "library"
    topics = tuple(e.TAGS[kind] for kind in CHANGING)

    @override
    def process_event(self, domain_event: DomainEventProtocol[UUID], tracking: Tracking) -> None:
        assert isinstance(domain_event, LogEvent)
        one = domain_event.recorded
        event, version, run_id = one.event, one.version, one.run_id
        match event:
            case e.Requested():
                ids = (run_id, event.account_id, event.chat_id, event.session_id)
                rest = (event.model, one.at, version, one.position)
                self.view.write(BEGIN, (*ids, *rest), tracking)
            case e.Started():
                self.view.write(START, (one.at, version, run_id), tracking)
            case e.Completed() | e.Failed() | e.Cancelled():
                code, sentence = _error(event)
                usage = json.dumps({"outputTokens": event.usage.output_tokens})
                values = (STATUS[type(event)], one.at, usage, code, sentence, version, run_id)
                self.view.write(END, values, tracking)
            case _:
                self.view.write(GO_ON, (version, run_id), tracking)


def _error(event: e.Ending) -> tuple[str | None, str | None]:
    return (event.code, event.sentence) if isinstance(event, e.Failed) else (None, None)


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    parts = conninfo_to_dict(environ["RUNLEDGER_DATABASE_URL"])
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "CREATE_TABLE": "n",
        **{
            f"POSTGRES_{name.upper()}": str(parts[name])
            for name in ("dbname", "host", "user", "password")
        },
    }


def main() -> None:
    seconds = float(sys.argv[1])
    os.environ["PGOPTIONS"] = "-c synchronous_commit=off"
    with ProjectionRunner(
        application_class=Log,
        projection_class=RunsProjection,
        view_class=RunsView,
        env=settings(os.environ),
    ) as runner:
        begin = time.perf_counter()
        runner.run_forever(timeout=seconds)
        position = runner.view.max_tracking_id(APPLICATION)
        took = time.perf_counter() - begin
    sys.stdout.write(json.dumps({"events": position or 0, "seconds": took}) + "\n")


if __name__ == "__main__":
    main()
