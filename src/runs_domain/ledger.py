"""The credits ledger as a fold of a run's events: every change has the event that made it.

A request reserves, the end of the run gives the reservation back and charges. No SQL, no clock.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, TypeAlias

from runs_domain import events
from runs_domain.events import Struct
from runs_domain.ids import AccountId, Position, RunId, Version
from runs_domain.ports import Recorded

EntryKind: TypeAlias = Literal["reserved", "settled"]


class LedgerEntry(Struct, frozen=True):
    """One row of the view `credits`: what one event changed, in credits. Never changed itself."""

    run_id: RunId
    version: Version
    """Of the event that made it."""
    account_id: AccountId
    position: Position
    at: datetime
    kind: EntryKind
    reserved: int
    """Added to what the account has reserved; the end takes off what the request put on."""
    charged: int


def entries_after(stream: Iterable[Recorded], held: int = 0) -> tuple[LedgerEntry, ...]:
    """The entries that `stream`, of one run, makes; none for an event that moved nothing.

    `held` is what the run had reserved before, to go on from a prefix.
    """
    entries: list[LedgerEntry] = []
    for recorded in stream:
        event = recorded.event
        match event:
            case events.Requested():
                kind: EntryKind = "reserved"
                held = reserved = event.credits_reserved
                charged = 0
            case events.Completed() | events.Failed() | events.Cancelled():
                kind, reserved, charged = "settled", -held, event.credits_charged
                held = 0
            case _:
                continue
        if reserved or charged:
            entries.append(
                LedgerEntry(
                    run_id=recorded.run_id,
                    version=recorded.version,
                    account_id=recorded.subject,
                    position=recorded.position,
                    at=recorded.at,
                    kind=kind,
                    reserved=reserved,
                    charged=charged,
                )
            )
    return tuple(entries)
