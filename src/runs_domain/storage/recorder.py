"""The log through the stock `eventsourcing` library: for replay, verification and export.

It only reads. The library's own append takes another lock than `append_batch` and knows nothing
of heads and keys.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, cast
from uuid import UUID

from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import JSONTranscoder, Mapper, Notification, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict
from typing_extensions import override

from runs_domain.events import Struct
from runs_domain.ids import AccountId, Position, RunId, Version
from runs_domain.ports import Recorded
from runs_domain.settings import Secret
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.sealing import DataKey

TABLE: Final = "stored_events"
CONNECT_SECONDS: Final = 5.0
_PORT: Final = "5432"

KeyOf = Callable[[AccountId], DataKey | None]


class LogEvent(Struct, frozen=True):
    """The library's domain event: ours, and the bytes that it came from."""

    originator_id: UUID
    originator_version: int
    recorded: Recorded
    state: bytes


class EventMapper(Mapper[UUID]):
    """`key_of` gives an account's data key, None if it was destroyed: then content is empty."""

    def __init__(self, key_of: KeyOf) -> None:
        super().__init__(JSONTranscoder())
        self._key_of = key_of

    @override
    def to_stored_event(self, domain_event: DomainEventProtocol[UUID]) -> StoredEvent:
        event = cast(LogEvent, domain_event)
        return StoredEvent(
            originator_id=event.originator_id,
            originator_version=event.originator_version,
            topic=event.recorded.type,
            state=event.state,
        )

    @override
    def to_domain_event(self, stored_event: StoredEvent) -> LogEvent:
        """Raises HistoryCorrupt, UnknownEvent. The position is 0 unless it is a Notification."""
        row = StoredRow(
            run_id=RunId(UUID(str(stored_event.originator_id))),
            version=Version(stored_event.originator_version),
            tag=stored_event.topic,
            state=stored_event.state,
            position=Position(stored_event.id if isinstance(stored_event, Notification) else 0),
        )
        envelope = codec.open_row(row)
        key = self._key_of(envelope.subject) if envelope.sealed else None
        return LogEvent(
            originator_id=row.run_id,
            originator_version=row.version,
            recorded=codec.decode(row, envelope, key),
            state=row.state,
        )


@contextmanager
def stock_recorder(url: Secret) -> Iterator[PostgresApplicationRecorder]:
    """The library's recorder over our table; blocking, so for scripts alone."""
    parts = conninfo_to_dict(url.reveal())
    with PostgresDatastore(
        dbname=str(parts.get("dbname", "")),
        host=str(parts.get("host", "")),
        port=str(parts.get("port", _PORT)),
        user=str(parts.get("user", "")),
        password=str(parts.get("password", "")),
        connect_timeout=CONNECT_SECONDS,
    ) as datastore:
        yield PostgresApplicationRecorder(datastore, events_table_name=TABLE)
