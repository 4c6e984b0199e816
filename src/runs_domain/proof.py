"""Whether a stream is as it was written, by its stored bytes alone: no database, no keys, and
nothing but the standard library, so that an outsider can run it on an export.

    proof = StreamProof(run_id)
    for version, tag, stored in rows:
        fault = proof.take(version, tag, stored)
    fault = proof.end(head_version, head_hash)

It checks the bytes (one JSON object, complete envelope and fields), the chain of hashes, and by
`proof_rules` that `decide` could have written these events. Sealed content stays sealed. A chain
alone cannot show that a tail was cut off with its head, that a whole run was taken away, or that
a whole history was written anew with new hashes; `check_invariants` looks into the content.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias
from uuid import UUID

from runs_domain.ids import RunId, chain_start
from runs_domain.proof_kinds import Kind, Wrong
from runs_domain.proof_rules import ClearRules
from runs_domain.proof_shapes import ENVELOPE, SHAPES, is_tag, is_time

Decode: TypeAlias = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """The first bad event of a stream; the sentence holds no content."""

    run_id: str
    version: int
    kind: Kind
    sentence: str
    position: int | None = None


class StreamFacts(NamedTuple):
    """What the whole stream says, as its row of `run_heads` should. None: it cannot be told."""

    version: int
    hash: str
    account_id: str | None
    chat_id: str | None
    session_id: str | None
    status: str | None
    live: bool | None
    open: bool | None
    requested_position: int | None
    updated_at: str


def strict_json(stored: bytes) -> Any:
    """Raises ValueError for what is no JSON, has a key twice, or a text that is no Unicode."""
    text = stored.decode("utf-8")
    found = _DECODER.decode(text)
    if "\\ud" in text or "\\uD" in text:  # half a surrogate pair would pass
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    return found


def hash_of(stored: bytes) -> str:
    return hashlib.sha256(stored).hexdigest()


class StreamProof:
    """One run's stream, an event at a time. After its first fault it says nothing more: what
    follows a bad event is bad because of it. An `unknown` is no fault: it is told once, and what
    needs no knowledge of the run's state is checked on.
    """

    def __init__(
        self,
        run_id: str,
        *,
        first_version: int = 1,
        prev: str | None = None,
        decode: Decode = strict_json,
    ) -> None:
        """`run_id` as UUIDs are written. A stream that begins in the middle has `prev`, the hash
        before its first event, on trust (None: not known); rules about its beginning are left out.

        `decode` may be a faster one, if it refuses (ValueError) all that `strict_json` does.
        """
        self.run_id = run_id
        self.broken = False
        self.events = 0
        self._decode = decode
        self._next = first_version
        self._hash = chain_start(RunId(UUID(run_id))) if first_version == 1 else prev
        self._doubt = False
        """The last event does not hold the hash before it: which of the two was changed, whoever
        holds the last one's hash can tell."""
        self._at = ""
        self._position: int | None = None
        self._before: int | None = None
        """The position of the event before the last."""
        self._first_position: int | None = None
        self._rules = ClearRules(whole=first_version == 1)

    def take(
        self, version: int, tag: str | None, stored: bytes | None, *, position: int | None = None
    ) -> Fault | None:
        """What is wrong with this event, or with one before it that is known only now.

        `version` and `tag` are those of its row, or of whatever stands beside the bytes.
        """
        if self.broken:
            return None
        if self._doubt:
            follows = version == self._next and self._prev_in(stored) == self._hash
            return self._blamed(later_is_whole=follows)
        if tag is None or stored is None:
            wrong: Wrong = "row", "has an empty column"
        else:
            wrong = self._wrong(version, tag, stored, position)
            self._hash = hash_of(stored)
        self.events += 1
        self._next = version + 1
        self._position, self._before = position, self._position
        return None if wrong is None else self.refuted(*wrong)

    def end(self, head_version: int | None = None, head_hash: str | None = None) -> Fault | None:
        """The stream is over. The head's values are given where there is one to compare with."""
        if self.broken:
            return None
        if self._doubt:  # nobody follows the last event: only the head can vouch for it
            return self._blamed(later_is_whole=head_hash is not None and head_hash == self._hash)
        last = self._next - 1
        if head_version is not None and head_version != last:
            return self.refuted("head", f"is the last, and its head is at version {head_version}")
        if head_hash is not None and head_hash != self._hash:
            return self.refuted("head", "does not have the hash that its head holds")
        missing = self._rules.missing()
        return None if missing is None else self.refuted("tail", missing)

    def refuted(self, kind: Kind, sentence: str) -> Fault:
        """By whoever sees more than the stream: its last event is a bad one."""
        self.broken = kind != "unknown"
        last = self._next - 1
        return Fault(self.run_id, last, kind, f"version {last} {sentence}", self._position)

    @property
    def facts(self) -> StreamFacts:
        """Of a stream with events and without a fault."""
        rules = self._rules
        return StreamFacts(
            version=self._next - 1,
            hash=self._hash or "",
            account_id=rules.account_id,
            chat_id=rules.chat_id,
            session_id=rules.session_id,
            status=rules.status,
            live=rules.live,
            open=rules.open,
            requested_position=self._first_position,
            updated_at=self._at,
        )

    # ------------------------------------------------------------------ one event

    def _wrong(self, version: int, tag: str, stored: bytes, position: int | None) -> Wrong:
        if version != self._next:
            return "version", f"follows version {self._next - 1}"
        try:
            envelope = self._decode(stored)
        except (ValueError, RecursionError):
            return "bytes", "is not one JSON object with each key once"
        if type(envelope) is not dict:
            return "bytes", "is not a JSON object"
        misfit = ENVELOPE.misfit(envelope)
        if misfit is not None:
            return "envelope", f"has {misfit} in its envelope"
        return (
            self._of_row(version, tag, envelope)
            or self._timed(envelope["at"])
            or self._placed(position)
            or self._chained(envelope["prev"])
            or self._meant(tag, envelope)
        )

    def _of_row(self, version: int, tag: str, envelope: dict[str, Any]) -> Wrong:
        said = envelope["runId"], envelope["version"], envelope["type"]
        if said == (self.run_id, version, tag):
            return None
        return "row", "is the event of another place than its row says"

    def _timed(self, at: str) -> Wrong:
        if at == self._at:
            return None
        if not is_time(at):
            return "envelope", "has no proper at in its envelope"
        if at < self._at:
            return "time", "is older than its predecessor"
        self._at = at
        return None

    def _placed(self, position: int | None) -> Wrong:
        if position is None:
            return None
        if position <= 0:
            return "position", "has no place in the log"
        if self._position is not None and position <= self._position:
            return "position", "stands before its predecessor in the log"
        if self._first_position is None:
            self._first_position = position
        return None

    def _chained(self, prev: str) -> Wrong:
        if prev == self._hash or self._hash is None:
            return None
        if self.events == 0:
            return "chain", "does not hold the hash that its stream begins with"
        self._doubt = True
        return None

    def _meant(self, tag: str, envelope: dict[str, Any]) -> Wrong:
        if self._doubt:
            return None
        shape = SHAPES.get(tag)
        if shape is None:
            if not is_tag(tag):
                return "envelope", "has no proper type in its envelope"
            self._rules.lose_sight()
        elif (misfit := shape.misfit(envelope["data"])) is not None:
            return "data", f"has {misfit} in its data"
        return self._rules.take(tag, envelope)

    def _prev_in(self, stored: bytes | None) -> Any:
        try:
            envelope = self._decode(stored or b"")
        except (ValueError, RecursionError):
            return None
        return envelope.get("prev") if type(envelope) is dict else None

    def _blamed(self, *, later_is_whole: bool) -> Fault:
        """Of two events that do not fit, the one that was changed: the later one is whole if
        what comes after it vouches for it.
        """
        self.broken = True
        later = self._next - 1
        if later_is_whole:
            sentence = f"version {later - 1} is not what version {later} was written after"
            return Fault(self.run_id, later - 1, "chain", sentence, self._before)
        sentence = f"version {later} does not hold the hash of the event before it"
        return Fault(self.run_id, later, "chain", sentence, self._position)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_number(_: str) -> NoReturn:
    raise ValueError("JSON has no such number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)
