"""How long to leave a model alone after a try that failed."""

from typing import Final

from runs_domain.errors import ModelError, ModelOverloaded

BACK_OFF_SECONDS: Final = (0.25, 1.0, 4.0, 10.0)
"""At least, after the first, second … failed try of a call."""
RETRY_AFTER_SECONDS_MAX: Final = 30.0
"""A provider may ask for a pause of up to this; who asks for more is tried again as usual."""
SPREAD: Final = 0.5
"""By how much of itself a pause is made longer at most: runs that failed together must not all
come back together."""
PAUSE_SECONDS_MAX: Final = 60.0
"""Above every pause that there can be."""


def pause_seconds(tries: int, error: ModelError, chance: float) -> float:
    """After `tries` failed tries, from 1; never less than what the provider asks for.

    `chance` is from 0 to 1.
    """
    usual = BACK_OFF_SECONDS[min(tries, len(BACK_OFF_SECONDS)) - 1]
    asked = error.retry_after_seconds if isinstance(error, ModelOverloaded) else None
    if asked is None or asked > RETRY_AFTER_SECONDS_MAX:
        asked = 0.0
    return max(usual, asked) * (1 + SPREAD * chance)
