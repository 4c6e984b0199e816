"""`?at=`: a run as it was at one of its versions, or at a time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeAlias

import msgspec

from runs_api.errors import invalid
from runs_domain.ids import Version
from runs_domain.ports import Recorded

PARAMETER: Final = "at"
VERSION_DIGITS_MAX: Final = 9

Point: TypeAlias = Version | datetime


def parse_point(text: str) -> Point:
    """Digits are a version, anything else a time (RFC 3339, with its offset). Raises 400."""
    if text.isascii() and text.isdigit() and len(text) <= VERSION_DIGITS_MAX and int(text) > 0:
        return Version(int(text))
    try:
        # A `+` that was not escaped arrives as a space.
        at = msgspec.convert(text.replace(" ", "+"), datetime)
    except msgspec.ValidationError:
        at = None
    if at is None or at.tzinfo is None:
        raise invalid((PARAMETER,), "must be a version, from 1, or a time with its UTC offset")
    return at


def cut(stream: Sequence[Recorded], point: Point) -> Sequence[Recorded]:
    """The events up to and with that point. Raises 400 where the run has no such point."""
    if isinstance(point, datetime):
        before = [one for one in stream if one.at <= point]
        if not before:
            raise invalid((PARAMETER,), "the run was not there yet")
        return before
    if point > len(stream):
        raise invalid((PARAMETER,), f"the run has no such version yet; it is at {len(stream)}")
    return stream[:point]
