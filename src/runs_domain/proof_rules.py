"""What `decide` allows, as far as the clear fields of the events tell.

The same rules as in `run`, stated once more: on stored JSON, without msgspec, and in the order in
which events come, not commands. A test holds the two together (`tests/domain/test_proof.py`).
What only the sealed parts tell (whether a call is open, or has its result) is `audit_rules`'.
"""

import binascii
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from runs_domain import proof_shapes as shapes
from runs_domain.proof_kinds import Event, Wrong
from runs_domain.proof_steps import Steps, is_model_step

WORKER_ACTOR: Final = "worker:"
KEY_TTL_SECONDS: Final = range(60, 24 * 60 * 60 + 1)
SEALED_BYTES_MIN: Final = 12 + 16
"""A nonce and a tag; what is sealed is longer."""


class ClearRules:
    """One stream; `take` each event, whose shape was checked before."""

    def __init__(self, *, whole: bool) -> None:
        """`whole`: it begins with its first event."""
        self.account_id: str | None = None
        self.chat_id: str | None = None
        self.session_id: str | None = None
        self._sees = whole
        """Else something came before, or between, that these rules do not know."""
        self._told_unknown = False
        self._subject: str | None = None
        self._attempt = 1
        self._holder: str | None = None
        """The worker whose attempt it is."""
        self._credits_reserved = 0
        self._provisioned = False
        self._key_id: str | None = None
        self._started = False
        self._cancel_requested = False
        self._ending: str | None = None
        self._due: str | None = None
        """The only tag that may come next, in the same append as what came last."""
        self._due_at = ""
        self._released = False
        self._steps = Steps()

    @property
    def status(self) -> str | None:
        """As `state.status_of`; None if it cannot be told."""
        if not self._sees:
            return None
        if self._ending is not None:
            return shapes.ENDINGS[self._ending]
        return "running" if self._started else "queued"

    @property
    def live(self) -> bool | None:
        return self._ending is None if self._sees else None

    @property
    def open(self) -> bool | None:
        return not self._released if self._sees else None

    def lose_sight(self) -> None:
        """An event of a newer release: what it did to the run is not known."""
        self._sees = False

    def missing(self) -> str | None:
        """What the stream cannot end without."""
        return (
            None if self._due is None else f"is written together with a {self._due}, which is gone"
        )

    def take(self, tag: str, event: Event) -> Wrong:
        wrong = self._whose(tag, event) or _sealed(tag, event)
        if wrong is not None:
            return wrong
        if not self._sees:
            return self._unjudged(tag, event)
        return (
            self._in_order(tag, event["at"])
            or self._held(tag, event)
            or self._STEPS[tag](self, event)
        )

    # ------------------------------------------------------------------ of every event

    def _whose(self, tag: str, event: Event) -> Wrong:
        subject = event["subject"]
        if self._subject is None:
            if not shapes.is_uuid(subject):
                return "envelope", "has no proper subject in its envelope"
            self._subject = subject
        if subject != self._subject:
            return "subject", "is about another account than the events before it"
        if tag == shapes.REQUESTED and event["data"]["accountId"] != subject:
            return "subject", "is about another account than the one whose run it requests"
        return None

    def _unjudged(self, tag: str, event: Event) -> Wrong:
        attempt = event["attempt"]
        if attempt < self._attempt:
            return "attempt", f"is by attempt {attempt}, after attempt {self._attempt}"
        self._attempt = attempt
        if tag in shapes.SHAPES or self._told_unknown:
            return None
        self._told_unknown = True
        return "unknown", f"is {tag}, which this release does not know"

    def _in_order(self, tag: str, at: str) -> Wrong:
        if (tag == shapes.REQUESTED) == (self.account_id is not None):
            return "transition", f"is {tag}: a stream begins with one request"
        if self._due is not None:
            if tag != self._due or at != self._due_at:
                return "transition", f"is {tag}, where {self._due} comes in the same append"
            self._due = None
            return None
        if self._ending is None:
            if tag in _AFTER_THE_END:
                return "transition", f"is {tag}, before the end"
        elif tag != shapes.SANDBOX_RELEASED or self._released:
            return "transition", f"is {tag}, out of place after the end"
        return None

    def _held(self, tag: str, event: Event) -> Wrong:
        attempt, actor = event["attempt"], event["actor"]
        if tag == shapes.RESUMED:
            resumed = event["data"]["attempt"]
            if resumed != self._attempt + 1:
                return "attempt", f"resumes as attempt {resumed} after attempt {self._attempt}"
            self._attempt, self._holder = resumed, None
        if attempt != self._attempt:
            return "attempt", f"is by attempt {attempt}, and {self._attempt} held the run"
        if self._ending is None and actor.startswith(WORKER_ACTOR):
            if self._holder is not None and self._holder != actor:
                return "attempt", f"is by a second worker as attempt {attempt}"
            self._holder = actor
        return None

    # ------------------------------------------------------------------ one kind each

    def _requested(self, event: Event) -> Wrong:
        data = event["data"]
        if not event.get("sealed"):
            return "envelope", "requests a run without a message"
        self.account_id, self.chat_id = data["accountId"], data["chatId"]
        self.session_id = data["sessionId"]
        self._credits_reserved = data.get("creditsReserved", 0)
        return None

    def _was_provisioned(self, _: Event) -> Wrong:
        if self._provisioned:
            return _twice(shapes.PROVISIONED)
        self._provisioned = True
        return None

    def _key_minted(self, event: Event) -> Wrong:
        data = event["data"]
        if not self._provisioned:
            return "transition", "mints a key before the run was provisioned"
        if self._key_id is not None:
            return _twice(shapes.KEY_MINTED)
        if data["ttlSeconds"] not in KEY_TTL_SECONDS:
            return "transition", f"mints a key for {data['ttlSeconds']} seconds"
        self._key_id = data["keyId"]
        return None

    def _was_started(self, _: Event) -> Wrong:
        if self._key_id is None:
            return "transition", "starts a run without its key"
        if self._started:
            return _twice(shapes.STARTED)
        self._started = True
        return None

    def _resumed(self, _: Event) -> Wrong:
        return None

    def _message(self, event: Event) -> Wrong:
        if not self._started:
            return "transition", "is a message before the run started"
        if is_model_step(event["data"]) and self._cancel_requested:
            return "transition", "is a model step while a cancel was pending"
        return self._steps.message(event["data"], event.get("sealed"))

    def _tools(self, event: Event) -> Wrong:
        if self._cancel_requested:
            return "transition", "starts a call while a cancel was pending"
        return self._steps.calls_started(event["data"]["callIds"])

    def _asked_to_cancel(self, event: Event) -> Wrong:
        if self._cancel_requested:
            return _twice(shapes.CANCEL_REQUESTED)
        self._cancel_requested = True
        if not self._started:
            self._due, self._due_at = shapes.CANCELLED, event["at"]
        return None

    def _completed(self, event: Event) -> Wrong:
        if self._cancel_requested:
            return "transition", "completes a run that was to be cancelled"
        if not self._steps.have_finished:
            return "transition", "completes a run whose model has not finished"
        if event["data"]["finishReason"] != self._steps.finish_reason:
            return "transition", "completes a run for another reason than its last step's"
        return self._ended(event)

    def _failed(self, event: Event) -> Wrong:
        if self._cancel_requested:
            return "transition", "fails a run that was to be cancelled"
        return self._ended(event)

    def _cancelled(self, event: Event) -> Wrong:
        if not self._cancel_requested:
            return "transition", "cancels a run, and nobody had asked to"
        return self._ended(event)

    def _ended(self, event: Event) -> Wrong:
        wrong = self._steps.charged(event["data"])
        if wrong is not None:
            return wrong
        if event["data"].get("creditsCharged", 0) > self._credits_reserved:
            return "totals", "charges more credits than were reserved"
        self._ending = event["type"]
        if self._key_id is not None:
            self._due, self._due_at = shapes.KEY_REVOKED, event["at"]
        return None

    def _key_revoked(self, event: Event) -> Wrong:
        if event["data"]["keyId"] != self._key_id:
            return "transition", "revokes another key than the run's"
        return None

    def _sandbox_released(self, _: Event) -> Wrong:
        self._released = True
        return None

    _STEPS: ClassVar[Mapping[str, Callable[[Any, Event], Wrong]]] = {
        shapes.REQUESTED: _requested,
        shapes.PROVISIONED: _was_provisioned,
        shapes.KEY_MINTED: _key_minted,
        shapes.STARTED: _was_started,
        shapes.RESUMED: _resumed,
        shapes.MESSAGE_PERSISTED: _message,
        shapes.TOOL_STARTED: _tools,
        shapes.CANCEL_REQUESTED: _asked_to_cancel,
        shapes.COMPLETED: _completed,
        shapes.FAILED: _failed,
        shapes.CANCELLED: _cancelled,
        shapes.SANDBOX_RELEASED: _sandbox_released,
        shapes.KEY_REVOKED: _key_revoked,
    }


def _twice(tag: str) -> Wrong:
    return "transition", f"is a second {tag}"


def _sealed(tag: str, event: Event) -> Wrong:
    """Content is where content may be, and looks like what was sealed."""
    sealed = event.get("sealed")
    if sealed is None or tag not in shapes.SHAPES:
        return None
    if tag not in shapes.WITH_CONTENT:
        return "envelope", "has content, which its kind has not"
    if sealed == "":  # erased before it was written
        return None
    try:
        size = len(binascii.a2b_base64(sealed, strict_mode=True))
    except ValueError:
        return "envelope", "has content that is no base64"
    return None if size > SEALED_BYTES_MIN else ("envelope", "has content that is too short")


_AFTER_THE_END: Final = frozenset({shapes.KEY_REVOKED, shapes.SANDBOX_RELEASED})
