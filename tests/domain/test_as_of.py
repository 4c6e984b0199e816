"""A point in a history: how it is written, and what was there then."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from runs_domain.as_of import cut, parse_point
from runs_domain.errors import InvalidPoint, NoSuchPoint
from runs_domain.ids import Version
from tests.domain.test_read_models import events_of, to_start
from tests.support.recorded import BEGINNING, recorded


def test_a_point_is_a_version_or_a_time_with_its_offset() -> None:
    assert parse_point("1") == Version(1)
    assert parse_point("007") == Version(7)
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for text in ("2026-01-02T03:04:05Z", "2026-01-02 03:04:05z", "2026-01-02T05:04:05+02:00"):
        assert parse_point(text) == at


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "9" * 10, "٣", "now", "2026-01-02", "2026-01-02T03:04:05"]
)
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(InvalidPoint, match="must be a version, from 1, or a time with its UTC"):
        parse_point(text)


def test_a_cut_is_what_was_there_then() -> None:
    stream = recorded(events_of(*to_start()))
    assert cut(stream, Version(1)) == stream[:1]
    assert cut(stream, Version(4)) == stream
    assert cut(stream, stream[1].at) == stream[:2]
    assert cut(stream, stream[2].at - timedelta(microseconds=1)) == stream[:2]
    assert cut(stream, BEGINNING + timedelta(days=1)) == stream


def test_an_event_of_a_changed_time_hides_nothing_that_came_after_it_in_another_order() -> None:
    """Only what was there before the first later event: never a history with a hole."""
    first, second, third, *_ = recorded(events_of(*to_start()))
    late = replace(second, at=third.at + timedelta(days=1))
    assert cut([first, late, third], third.at) == [first]


def test_a_point_that_the_run_does_not_have_is_refused() -> None:
    stream = recorded(events_of(*to_start()))
    with pytest.raises(NoSuchPoint, match="no such version yet; it is at 4"):
        cut(stream, Version(5))
    with pytest.raises(NoSuchPoint, match="was not there yet"):
        cut(stream, stream[0].at - timedelta(microseconds=1))
    for point in (Version(1), BEGINNING):
        with pytest.raises(NoSuchPoint):
            cut([], point)
