"""How a stored event looks on the wire: in answers and in what scripts print the same."""

import msgspec

from runs_api.schemas import HistoryEvent
from runs_domain.ports import Stored


def event_of(stored: Stored) -> HistoryEvent:
    return HistoryEvent(
        type=stored.type,
        version=stored.version,
        position=stored.position,
        at=stored.at,
        actor=stored.actor,
        subject=str(stored.subject),
        attempt=stored.attempt,
        data=msgspec.Raw(stored.data),
        hash=stored.hash,
        prev=stored.prev,
        erased=stored.erased,
    )
