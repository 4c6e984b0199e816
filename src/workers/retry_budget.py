"""What failing model calls may cost one run: so many retries, and so much time.

Counted exactly by the worker that holds the run. What the workers before it counted is gone with
them, so it starts from what the log tells: each change of worker counts as a retry, and so does
each answer that broke off and was asked for again. Hence no chain of hand-overs retries for ever,
and every worker has the seconds to itself.
"""

from typing import Final

from runs_domain.events import Event, MessagePersisted, Resumed, Struct

CALL_TRIES_MAX: Final = 5
"""Tries of one model call by one worker."""


class RetryLimits(Struct, frozen=True):
    """Of one run."""

    retries_max: int = 20
    """Model calls made again after they failed; 0 = the first failure ends the run."""
    seconds_max: float = 300.0
    """In calls that failed and in the pauses after them. A call in hand is not cut short by it."""


class RetryBudget:
    def __init__(self, limits: RetryLimits) -> None:
        self._limits = limits
        self._retries = 0
        self._takeovers = 0
        self._seconds = 0.0
        self._resumed_last = False

    def inherit(self, event: Event) -> None:
        """An event of before this worker held the run, in the order of the log."""
        match event:
            case Resumed():
                self._takeovers += 1
            case MessagePersisted(interrupted=True) if not self._resumed_last:
                self._retries += 1  # what follows `resumed` was broken off by the change of worker
            case _:
                pass
        self._resumed_last = isinstance(event, Resumed)

    def spend(self, seconds: float) -> None:
        """In a call that failed."""
        self._seconds += seconds

    def grants(self, call_tries: int, pause_seconds: float) -> bool:
        """Whether a call that has failed `call_tries` times may be made again after a pause.

        If so, both count as spent.
        """
        if (
            call_tries >= CALL_TRIES_MAX
            or self._retries + self._takeovers >= self._limits.retries_max
            or self._seconds + pause_seconds > self._limits.seconds_max
        ):
            return False
        self._retries += 1
        self._seconds += pause_seconds
        return True

    def sentence(self, call_tries: int) -> str:
        """What was spent and what there was, for `failed`."""
        retries = _counted(self._retries, "retry", "retries")
        if self._takeovers:
            changes = _counted(self._takeovers, "change of worker", "changes of worker")
            retries += f" and {changes}, which count as retries,"
        return (
            f"{_counted(call_tries, 'try', 'tries')} of this call (at most {CALL_TRIES_MAX}), "
            f"{retries} in {self._seconds:.1f} s "
            f"(a run has at most {self._limits.retries_max} in {self._limits.seconds_max:g} s)"
        )


def _counted(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
