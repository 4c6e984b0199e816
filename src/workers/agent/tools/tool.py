"""The contract between the agent loop and a tool."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import msgspec

from runs_domain.errors import RunledgerError
from runs_domain.events import Json, Struct
from runs_domain.ids import RunId
from runs_domain.sandbox_port import Sandbox

RUN_VARIABLE: Final = "RUNLEDGER_RUN_ID"
CALL_VARIABLE: Final = "RUNLEDGER_CALL_ID"

ErrorOrigin = Literal[
    "unknown_tool",
    "bad_input",
    "tool",
    "sandbox",
    "workspace_lost",
    "timeout",
    "internal",
]
"""Who could not: the model (the first two), the tool's own work, or what lies under it.

All but `workspace_lost` are told to the model, which decides what to do (incident I-10).
"""


class ToolFailed(RunledgerError):
    """A failure that the model can learn from: the text says what was wrong and what to do."""


class ToolInput(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Base of all inputs."""


class ToolError(Struct, frozen=True):
    origin: ErrorOrigin
    text: str


class ToolResult(Struct, frozen=True):
    """One of the two."""

    output: Json | None = None
    error: ToolError | None = None


@dataclass(frozen=True)
class ToolContext:
    sandbox: Callable[[], Awaitable[Sandbox]]
    """The run's sandbox, made at the first call. Raises SandboxNotFound if it was lost."""
    run_id: RunId
    call_id: str
    """Of this call alone, and the same whoever makes it: the idempotency key of whatever the call
    does outside."""
    deadline_seconds: float = 0.0
    """How long the tool may take; set by `run_tool`, which stops it soon after."""

    @property
    def environment(self) -> dict[str, str]:
        """What a command is told of itself, so that its scripts can pass it on."""
        return {RUN_VARIABLE: str(self.run_id), CALL_VARIABLE: self.call_id}


class Tool(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str:
        """For the model."""
        ...

    @property
    def input_type(self) -> type[ToolInput]: ...

    @property
    def repeatable(self) -> bool:
        """Running it twice does no harm, so a call whose outcome was lost is run again."""
        ...

    async def run(self, given: Any, context: ToolContext) -> Json:
        """`given` is an `input_type`. Raises ToolFailed, SandboxError."""
        ...
