"""The port to a language model: one call in, a stream of small events out.

An adapter is a class with `serves` and `stream`; nothing more is asked of it. It raises only
`ModelOverloaded`, `ModelTimeout` and `ModelRejected`, and before raising it has closed its
connection. Cancelling the task that consumes `stream` aborts the call at once.
"""

from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeAlias

from runs_domain.events import FinishReason, Json, Struct, Usage
from runs_domain.ids import Attempt, RunId


class ToolSpec(Struct, frozen=True):
    """What the model is told of a tool. `input_schema` is JSON Schema of an object."""

    name: str
    description: str
    input_schema: dict[str, Any]


class ModelRequest(Struct, frozen=True):
    run_id: RunId
    attempt: Attempt
    step: int
    """Finished model calls of the run before this one, from 0."""
    attempt_tries: int
    """Failed tries of this very call within this attempt, from 0."""
    model: str
    system: str
    messages: tuple[Json, ...]
    """UIMessages, the run's own assistant message (if any) last; every tool part has a result."""
    tools: tuple[ToolSpec, ...]


class TextDelta(Struct, frozen=True):
    text: str


class ReasoningDelta(Struct, frozen=True):
    text: str


class ToolInputStart(Struct, frozen=True):
    """The model begins call `index` (0, 1, 2 … within this model call) of tool `name`."""

    index: int
    name: str


class ToolInputDelta(Struct, frozen=True):
    """A piece of the call's input as JSON text, just as the model writes it."""

    index: int
    text: str


class ToolInput(Struct, frozen=True):
    """The call's input is whole. `input` is what the text parses to, or `error` says why not."""

    index: int
    input: Any
    error: str | None = None


class ModelEnd(Struct, frozen=True):
    """Last event of every stream that did not raise."""

    finish_reason: FinishReason
    usage: Usage
    cost: str | None = None


ModelEvent: TypeAlias = (
    TextDelta | ReasoningDelta | ToolInputStart | ToolInputDelta | ToolInput | ModelEnd
)


class Model(Protocol):
    def serves(self, model_id: str) -> bool:
        """Whether this adapter answers for the id. Cheap and offline: the POST asks it."""
        ...

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """One model call."""
        ...
