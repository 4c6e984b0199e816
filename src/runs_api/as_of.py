"""`?at=`: a run as it was at one of its versions, or at a time."""

from typing import Final

from runs_api.errors import ApiError, invalid
from runs_domain import as_of
from runs_domain.as_of import Point
from runs_domain.errors import InvalidPoint, NoSuchPoint

PARAMETER: Final = "at"


def parse_point(text: str) -> Point:
    """Raises 400."""
    try:
        # A `+` that was not escaped arrives as a space.
        return as_of.parse_point(text.replace(" ", "+"))
    except InvalidPoint as error:
        raise refusal(error) from None


def refusal(error: InvalidPoint | NoSuchPoint) -> ApiError:
    """The 400 for a point that is none, or that the run does not have."""
    return invalid((PARAMETER,), str(error))
