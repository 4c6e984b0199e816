"""The words of a proof: what can be wrong with an event."""

from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "row",  # a column is empty, or says otherwise than the bytes
    "bytes",  # not one JSON object
    "envelope",  # a field of it is missing, or is none
    "data",  # the event's own fields do not fit its tag
    "version",  # a hole, or the same one twice
    "position",  # a place in the log before its predecessor's
    "time",  # older than its predecessor
    "chain",  # it does not hold the hash of the event before
    "subject",  # about another account than the run's
    "attempt",  # by a worker that did not hold the run
    "transition",  # not what may happen to such a run
    "totals",  # charged something else than its steps used
    "tail",  # it stops in the middle of what is written at once
    "head",  # what stands beside the stream (its row of run_heads, a manifest) says otherwise
    "unknown",  # no fault: a tag of a newer release, which this one cannot judge
]
Wrong: TypeAlias = tuple[Kind, str] | None
"""A kind, and a sentence that goes on after "version 4"."""
Event: TypeAlias = dict[str, Any]
