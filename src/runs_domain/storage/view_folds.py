"""A fold of whole runs, with word of the event at which it fails."""

from collections.abc import Sequence

import psycopg

from runs_domain.errors import RunledgerError
from runs_domain.ports import Recorded
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.view import Keys, Row, View


class CannotFold(RunledgerError):
    """The message is for operators: view, event and position, and no word of the content."""


def folded(view: View, stream: Sequence[Recorded], keys: Keys) -> list[Row]:
    """The view's rows of one run. Raises CannotFold."""
    try:
        return view.rows_of(stream, keys)
    except Exception as error:  # whatever it is: a run that is left out must not look like none
        raise _fault(view, stream, keys, error) from error


def _fault(view: View, stream: Sequence[Recorded], keys: Keys, error: Exception) -> CannotFold:
    for count, recorded in enumerate(stream, start=1):
        try:
            view.rows_of(stream[:count], keys)
        except Exception as first:  # noqa: BLE001 - it is the same again
            return cannot_take(view.name, recorded, recorded.type, first)
    return CannotFold(f"view {view.name} cannot take run {stream[0].run_id}: {reason(error)}")


def cannot_take(view: str, one: Recorded | StoredRow, tag: str, error: Exception) -> CannotFold:
    """To be raised: at that event, which has that tag."""
    return CannotFold(
        f"view {view} cannot take event {one.version} of run {one.run_id}"
        f" at position {one.position} ({tag}): {reason(error)}"
    )


def reason(error: Exception) -> str:
    """Without anything that a client or a model wrote."""
    if isinstance(error, RunledgerError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, psycopg.Error):
        return f"{type(error).__name__} {error.sqlstate or ''}".strip()
    return type(error).__name__
