"""Events as a log would have recorded them, without a log."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from runs_domain.events import TAGS, Event
from runs_domain.ids import AccountId, Attempt, Position, RunId, Version
from runs_domain.ports import Recorded
from tests.support.builders import ACCOUNT, RUN

BEGINNING = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
POSITION_STEP = 3
"""Positions have gaps."""


def recorded(
    events: Iterable[Event], *, run_id: RunId = RUN, subject: AccountId = ACCOUNT
) -> list[Recorded]:
    """One stream, a second between its events."""
    return [
        Recorded(
            event=event,
            run_id=run_id,
            version=Version(version),
            position=Position(version * POSITION_STEP),
            type=TAGS[type(event)],
            at=BEGINNING + timedelta(seconds=version),
            actor="worker",
            subject=subject,
            correlation="c",
            causation="c",
            attempt=Attempt(1),
            prev="",
            hash="",
        )
        for version, event in enumerate(events, start=1)
    ]
