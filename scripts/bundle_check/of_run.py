"""One run's events in a bundle: the proof of their stream, and what only a bundle can hold against
them, its span, its account and the run's own line.
"""

from typing import Any, NamedTuple
from uuid import UUID

from bundle_check.bundle import is_at_the_end
from bundle_check.events import EventLine
from bundle_check.manifest import ManifestFacts
from bundle_check.runs import RunFacts

from runs_domain.ids import RunId, chain_start
from runs_domain.proof import Fault, StreamProof, strict_json

LINE = "line"
"""The kind of an event whose line says otherwise than its bytes, or does not belong here."""


class Bad(NamedTuple):
    kind: str
    sentence: str
    run_id: str
    version: int
    position: int | None


class RunCheck:
    def __init__(self, first: EventLine, facts: RunFacts | None, manifest: ManifestFacts) -> None:
        """`facts` is the run's own line, None if it has none: its anchor is on trust then."""
        self.run_id = first.run_id
        self.begun_before = first.version > 1
        self.ended = self.erased = False
        self._events = 0
        self._last = self._first = first
        self._facts = facts
        self._manifest = manifest
        self._envelope: dict[str, Any] | None = None
        self._proof = StreamProof(
            first.run_id,
            first_version=first.version if facts is None else facts.first_version,
            prev=None if facts is None else facts.anchor,
            decode=self._decoded,
        )

    def take(self, event: EventLine) -> Bad | None:
        """What is wrong with it; of a run the first such event alone."""
        self._events += 1
        self._last = event
        self._envelope = envelope = _object(event.stored)
        self.ended = is_at_the_end(event.tag)
        sealed = None if envelope is None else envelope.get("sealed")
        self.erased |= sealed == "" or (sealed is not None and self._manifest.content_erased)
        broken = self._proof.broken
        fault = self._proof.take(event.version, event.tag, event.stored, position=event.position)
        if broken or (fault is not None and fault.version != event.version):
            return _bad(fault)  # of the one before, or nothing more
        wrong = event.wrong or (self._misplaced(event) if fault is None else None)
        if wrong is None:
            return _bad(fault)
        self._proof.broken = True
        sentence = f"version {event.version} {wrong}"
        return Bad(LINE, sentence, self.run_id, event.version, event.position)

    @property
    def envelope(self) -> dict[str, Any] | None:
        """The last event as it is stored; None if that is no JSON object."""
        return self._envelope

    def end(self) -> Bad | None:
        facts = self._facts
        if facts is None:
            return _bad(self._proof.end())
        broken = self._proof.broken
        fault = self._proof.end(facts.last_version, facts.last_hash)
        if broken or fault is not None:
            return _bad(fault)
        wrong = self._unlike(facts)
        return None if wrong is None else _bad(self._proof.refuted("head", wrong))

    def _decoded(self, _: bytes) -> dict[str, Any]:
        if self._envelope is None:
            raise ValueError
        return self._envelope

    def _misplaced(self, event: EventLine) -> str | None:
        """Of an event whose bytes are sound: is it here by right, and does its line say so?"""
        envelope, window = self._envelope, self._manifest
        if envelope is None:
            return None
        if event.time != envelope["at"]:
            return "has another time in its line than in its bytes"
        if event.subject != window.account:
            return "has another subject in its line than the bundle's account"
        if envelope["subject"] != window.account:
            return "is about another account than the bundle's"
        if not window.after < event.position <= window.through:
            return "stands outside the bundle's positions"
        if event.time >= window.until or (window.since is not None and event.time < window.since):
            return "was committed outside the bundle's span of time"
        return None

    def _unlike(self, facts: RunFacts) -> str | None:
        first = self._first
        requested = facts.requested_position
        if not self.begun_before and facts.anchor != chain_start(RunId(UUID(self.run_id))):
            return "is of a run whose line has another anchor than its stream begins with"
        if self.begun_before and requested > self._manifest.after:
            return "is of a run whose line says that it was requested in this span"
        if not self.begun_before and requested != first.position:
            return "is of a run whose line says that it was requested elsewhere in the log"
        for name, here in (
            ("events", self._events),
            ("ended", self.ended),
            ("erased", self.erased),
        ):
            if getattr(facts, name) != here:
                return f"is of a run whose line says another {name!r} than its events do"
        return None


def _bad(fault: Fault | None) -> Bad | None:
    if fault is None:
        return None
    return Bad(fault.kind, fault.sentence, fault.run_id, fault.version, fault.position)


def _object(stored: bytes) -> dict[str, Any] | None:
    try:
        found = strict_json(stored)
    except (ValueError, RecursionError):
        return None
    return found if type(found) is dict else None
