"""runs.ndjson, walked beside the events: one line for each run there, in the same order."""

import collections
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from bundle_check.bundle import strict_object
from bundle_check.files import Tell
from bundle_check.manifest import SHA256

from runs_domain.proof_shapes import is_positive, is_uuid

LOOK_AHEAD: Final = 2
MISSES_MAX: Final = 3

_SHAPE: Final = {
    "runId": is_uuid,
    "requestedPosition": is_positive,
    "firstVersion": is_positive,
    "anchor": lambda value: type(value) is str and SHA256.fullmatch(value) is not None,
    "lastVersion": is_positive,
    "lastHash": lambda value: type(value) is str and SHA256.fullmatch(value) is not None,
    "events": is_positive,
    "ended": lambda value: type(value) is bool,
    "erased": lambda value: type(value) is bool,
}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A line of runs.ndjson."""

    run_id: str
    requested_position: int
    first_version: int
    anchor: str
    last_version: int
    last_hash: str
    events: int
    ended: bool
    erased: bool


def read_runs(lines: Iterator[bytes], tell: Tell) -> Iterator[RunFacts]:
    """Those lines that are fit; the others are told."""
    before = 0
    for number, line in enumerate(lines, start=1):
        try:
            said = strict_object(line)
            if said.keys() != _SHAPE.keys():
                raise ValueError("it has other keys than belong there")  # noqa: TRY301
            for name, fits in _SHAPE.items():
                if not fits(said[name]):
                    raise ValueError(f"{name} is not what it should be")  # noqa: TRY301
        except ValueError as error:
            tell(f"runs.ndjson: line {number}: {error}")
            continue
        facts = _facts(said)
        if facts.requested_position <= before:
            tell(f"runs.ndjson: line {number}: its run was requested before that of the line above")
        before = facts.requested_position
        yield facts


def _facts(said: dict[str, Any]) -> RunFacts:
    return RunFacts(*(said[name] for name in _SHAPE))


class RunsBeside:
    """Gives each run of the events its line. A line too many or too few is found and got over;
    where MISSES_MAX runs in a row have none, the lines are compared no further.
    """

    def __init__(self, lines: Iterator[RunFacts], tell: Tell) -> None:
        self._lines = lines
        self._tell = tell
        self._next: list[RunFacts] = []
        self._misses = 0

    def line_of(self, run_id: str) -> RunFacts | None:
        """None: it has none, which was told."""
        if self._misses == MISSES_MAX:
            return None
        self._next += itertools.islice(self._lines, LOOK_AHEAD - len(self._next))
        for place, facts in enumerate(self._next):
            if facts.run_id == run_id:
                self._without_events(self._next[:place])
                del self._next[: place + 1]
                self._misses = 0
                return facts
        self._misses += 1
        self._tell(f"runs.ndjson has no line of run {run_id} where its events stand")
        if self._misses == MISSES_MAX:
            self._tell("runs.ndjson and the events go apart: they are compared no further")
        return None

    def end(self) -> None:
        """The events are over."""
        if self._misses < MISSES_MAX:
            self._without_events(self._next)
            for facts in self._lines:
                self._without_events([facts])
        else:
            collections.deque(self._lines, maxlen=0)  # its bytes are checked to the end

    def _without_events(self, lines: list[RunFacts]) -> None:
        for facts in lines:
            self._tell(f"runs.ndjson has run {facts.run_id}, and the events do not")
