"""A point in a run's history: one of its versions, or a time. API and scripts read it alike."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol, TypeAlias, TypeVar

import msgspec

from runs_domain.errors import InvalidPoint, NoSuchPoint
from runs_domain.ids import Version

VERSION_DIGITS_MAX: Final = 9

Point: TypeAlias = Version | datetime


class Placed(Protocol):
    """An event, read or not, with its place and its time."""

    @property
    def version(self) -> Version: ...

    @property
    def at(self) -> datetime: ...


P = TypeVar("P", bound=Placed)


def parse_point(text: str) -> Point:
    """Digits are a version, anything else a time (RFC 3339, with its offset).

    Raises InvalidPoint.
    """
    if text.isascii() and text.isdigit() and len(text) <= VERSION_DIGITS_MAX and int(text) > 0:
        return Version(int(text))
    try:
        at = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidPoint("must be a version, from 1, or a time with its UTC offset")
    return at


def cut(stream: Sequence[P], point: Point) -> Sequence[P]:
    """The events up to and with that point. Raises NoSuchPoint where the run has no such point."""
    if isinstance(point, datetime):
        # Up to the first that is later: what comes after it cannot have been there before it.
        later = next((place for place, one in enumerate(stream) if one.at > point), len(stream))
        if later == 0:
            raise NoSuchPoint("the run was not there yet")
        return stream[:later]
    last = stream[-1].version if stream else 0
    if point > last:
        raise NoSuchPoint(f"the run has no such version yet; it is at {last}")
    return [one for one in stream if one.version <= point]
