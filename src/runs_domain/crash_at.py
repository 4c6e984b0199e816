"""The places where a process can be told to kill itself, so that tests see what a crash there does.

`RUNLEDGER_CRASH_AT=append.after:3` is SIGKILL at the third time that the process has appended.
`record` kills nobody and logs each point with its number. Only for tests: `settings` refuses both
where a process could be a production one.
"""

import re
from typing import Final, NamedTuple

RECORD: Final = "record"
NTH_MAX: Final = 9_999_999
POINTS: Final = (
    "append.before",  # the worker's appends to the event log
    "append.after",
    "chunk.before",  # counted by frames: n is the n-th frame that goes to Redis
    "chunk.after",
    "raise.before",  # the fence of a takeover in the chunk stream
    "raise.after",
    "model.before",  # model calls
    "model.streaming",  # counted by the model's events: the n-th has come and was not looked at
    "model.after",  # the last event of a call has come and was not looked at
    "tool.before",
    "tool.after",
    "open.before",  # sandboxes
    "open.after",
    "destroy.before",
    "destroy.after",
    "renew.before",  # the run key's lease, first of all after a takeover
    "renew.after",
    "bury.before",  # the letter of a run whose tries are used up, or of a job that breaks for ever
    "bury.after",
    "take.after",  # jobs: a new or a reclaimed one has come
    "ack.before",  # the job is done and leaves the queue
    "ack.after",
    "requeue.before",  # the job is given back: a hand-over, or a retry
    "requeue.after",
    "send.before",  # the API: `requested` is in the log, its job is not in the queue
)


FORM: Final = f"{RECORD} or POINT:N, N from 1 to {NTH_MAX}, POINT one of {', '.join(POINTS)}"


class CrashAt(NamedTuple):
    point: str
    nth: int
    """From 1."""


def is_known(text: str) -> bool:
    return text == RECORD or place_of(text) is not None


def place_of(text: str) -> CrashAt | None:
    """None for `record`, and for what is not known."""
    point, _, nth = text.partition(":")
    if point not in POINTS or re.fullmatch("[1-9][0-9]{0,6}", nth) is None:
        return None
    return CrashAt(point, int(nth))
