"""Which sandbox a run has, as a fold of its events. No SQL, no clock."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, TypeAlias

from msgspec.structs import replace

from runs_domain import events
from runs_domain.errors import HistoryCorrupt
from runs_domain.events import Struct
from runs_domain.ids import AccountId, Position, RunId, SessionId, Version, sandbox_name
from runs_domain.ports import Recorded

SandboxState: TypeAlias = Literal["awaited", "named", "open", "released"]
"""`awaited`: the run was not provisioned yet. `named`: nothing was made yet; the first command
makes it."""


class SandboxRow(Struct, frozen=True):
    """One row of the view `sandboxes`: what one run holds, or held."""

    run_id: RunId
    account_id: AccountId
    session_id: SessionId
    requested_position: Position
    sandbox: str
    """Its name. It follows from the session, so it is known before anything is there."""
    state: SandboxState
    version: Version
    """Of the last event that changed the row."""
    provider: str | None = None
    working_directory: str | None = None
    repository: str | None = None
    provisioned_at: datetime | None = None
    released_at: datetime | None = None
    found: bool | None = None
    """Whether there was anything to release; None before that."""
    commit_id: str | None = None
    pushed: bool | None = None


def sandbox_after(stream: Iterable[Recorded], row: SandboxRow | None = None) -> SandboxRow | None:
    """The row after `stream`, of one run, which goes on where `row` stands.

    Raises HistoryCorrupt for a stream that does not begin with its request.
    """
    for recorded in stream:
        event = recorded.event
        match event:
            case events.Requested():
                row = _awaited(recorded, event)
            case events.Provisioned() | events.SandboxReleased():
                if row is None:
                    raise HistoryCorrupt(f"run {recorded.run_id} does not begin with its request")
                row = _changed(row, recorded, event)
            case _:
                pass
    return row


def _awaited(recorded: Recorded, event: events.Requested) -> SandboxRow:
    return SandboxRow(
        run_id=recorded.run_id,
        account_id=event.account_id,
        session_id=event.session_id,
        requested_position=recorded.position,
        sandbox=sandbox_name(event.session_id),
        state="awaited",
        version=recorded.version,
    )


def _changed(
    row: SandboxRow, recorded: Recorded, event: events.Provisioned | events.SandboxReleased
) -> SandboxRow:
    if isinstance(event, events.SandboxReleased):
        return replace(
            row,
            state="released",
            version=recorded.version,
            released_at=recorded.at,
            found=event.found,
            commit_id=event.commit,
            pushed=event.pushed,
        )
    return replace(
        row,
        state=event.state,
        version=recorded.version,
        sandbox=event.sandbox,
        provider=event.provider,
        working_directory=event.working_directory,
        repository=event.repository,
        provisioned_at=recorded.at,
    )
