"""What the clear fields tell of a run's message: its steps, its tool calls, what they cost."""

from decimal import Decimal
from typing import Any, Final

from runs_domain.proof_kinds import Wrong
from runs_domain.proof_shapes import TOKENS

CALL_PREFIX: Final = "call_"
MESSAGE_PREFIX: Final = "msg_"
PLACE_DIGITS_MAX: Final = 9


def is_model_step(data: dict[str, Any]) -> bool:
    """Of a persisted message: a whole model call, not a result and not what was cut off."""
    return data.get("finishReason") is not None and not data.get("interrupted", False)


class Steps:
    """Of one run, in their order."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        """Of the last model step."""
        self._message_id: str | None = None
        self._parts = 0
        """How many the message has at least; `_parts_known`: just so many."""
        self._parts_known = True
        self._erased = False
        """Content was erased under way: who went on knew of no parts."""
        self._started: set[str] = set()
        self._last_started = -1
        """The highest place of a call that was started."""
        self._tokens = dict.fromkeys(TOKENS, 0)
        self._cost: Decimal | None = Decimal(0)

    @property
    def have_finished(self) -> bool:
        return self.finish_reason not in (None, "tool-calls")

    def message(self, data: dict[str, Any], sealed: str | None) -> Wrong:
        if self._message_id not in (None, data["messageId"]):
            return "transition", "is part of another message than the run's"
        self._message_id = data["messageId"]
        self._erased = self._erased or sealed == ""
        is_step, interrupted = is_model_step(data), data.get("interrupted", False)
        if interrupted and data.get("finishReason") is not None:
            return "transition", "is cut off, and finished"
        if not (is_step or interrupted) and sealed is not None and self.finish_reason is None:
            return "transition", "is a result, and no call was made"
        if is_step and self.have_finished:
            return "transition", "is a model step after the last one"
        if is_step:
            self.finish_reason = data["finishReason"]
        grows = sealed is not None and (is_step or interrupted)
        return self._place(data["firstPart"], grows=grows) or self._spend(data)

    def calls_started(self, calls: list[str]) -> Wrong:
        if not calls or self.finish_reason is None:
            return "transition", "starts a call where there is none"
        prefix = f"{CALL_PREFIX}{(self._message_id or '').removeprefix(MESSAGE_PREFIX)}_"
        for call in calls:
            if call in self._started:
                return "transition", "starts a call again"
            place = call.removeprefix(prefix)
            if place == call or not _is_place(place):
                return "transition", "starts a call of another message"
            self._started.add(call)
            self._last_started = max(self._last_started, int(place))
        return None

    def charged(self, data: dict[str, Any]) -> Wrong:
        """Whether an end has the totals of what came before."""
        usage = data["usage"]
        if any(usage.get(name, 0) != spent for name, spent in self._tokens.items()):
            return "totals", "charges other tokens than its steps used"
        unknown = self._cost is None or not any(self._tokens.values())
        if data.get("cost") != (None if unknown else str(self._cost)):
            return "totals", "charges another cost than its steps had"
        return None

    def _place(self, first: int, *, grows: bool) -> Wrong:
        """Where new parts begin: after all that there are."""
        known, self._parts_known = self._parts_known, not grows
        if self._erased:
            return None
        if first < self._parts or (known and first != self._parts):
            return "transition", f"adds part {first} to {self._parts} parts"
        if first <= self._last_started:
            return "transition", f"adds part {first} after call {self._last_started} was started"
        self._parts = first
        return None

    def _spend(self, data: dict[str, Any]) -> Wrong:
        if data.get("usage") is None:
            return None if data.get("cost") is None else ("totals", "has a cost and no usage")
        for name, count in data["usage"].items():
            self._tokens[name] += count
        cost = data.get("cost")
        try:
            if self._cost is not None:
                self._cost = None if cost is None else self._cost + Decimal(cost)
        except ArithmeticError:
            return "totals", "has a cost beyond all numbers"
        return None


def _is_place(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= PLACE_DIGITS_MAX
