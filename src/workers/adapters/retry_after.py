"""How long a server asks to be left alone: `Retry-After` and `retry-after-ms` of an answer."""

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

Headers = Mapping[str, str]
"""Found by their names whatever the case."""


def retry_after_seconds(headers: Headers) -> float | None:
    """None when nothing is asked, or nothing that can be understood."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    asked = headers.get("retry-after")
    seconds = _number(asked)
    return _until(asked, headers.get("date")) if seconds is None else seconds


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _until(then: str | None, now: str | None) -> float | None:
    """By the server's own clock, which is the only one that its date is true for."""
    if then is None or now is None:
        return None
    try:
        difference = parsedate_to_datetime(then) - parsedate_to_datetime(now)
    except (TypeError, ValueError):
        return None
    return max(difference.total_seconds(), 0.0)
