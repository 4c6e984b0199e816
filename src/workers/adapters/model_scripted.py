"""Models that do as they are told, for development, demonstrations and tests.

`scripted/echo` says the last user text back; `scripted/playbook` reads in it what to do at each
model call of the run. Both are pure functions of the request, so a resumed run plays the same.
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Final, assert_never

import msgspec

from runs_domain.errors import ModelError, ModelOverloaded, ModelRejected, ModelTimeout
from runs_domain.events import Json, Usage
from runs_domain.model_ids import ECHO, SCRIPTED
from runs_domain.model_port import (
    ModelEnd,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolInput,
    ToolInputDelta,
    ToolInputStart,
)
from runs_domain.ports import Clock
from workers.adapters.playbook import (
    PAST_THE_END,
    Failure,
    PlaybookCall,
    PlaybookTool,
    parse_playbook,
)

FREE: Final = "0"
"""No provider is paid, so the cost is known."""
_WORD: Final = re.compile(r"\s*\S+|\s+")


class ScriptedModel:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def serves(self, model_id: str) -> bool:
        return model_id in SCRIPTED

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        text = last_user_text(request.messages)
        call = PlaybookCall(text=text) if request.model == ECHO else _call(text, request.step)
        if call.error is not None and request.attempt_tries < call.times:
            raise _failure(call.error)
        for index, word in enumerate(words(call.text)):
            if index and call.delta_ms:
                await self._clock.sleep(call.delta_ms / 1000)
            yield TextDelta(text=word)
        for index, tool in enumerate(call.tools):
            for event in _tool_call(index, tool):
                yield event
        yield ModelEnd(
            finish_reason="tool-calls" if call.tools else "stop",
            usage=Usage(
                input_tokens=call.usage.input_tokens, output_tokens=call.usage.output_tokens
            ),
            cost=FREE,
        )


def words(text: str) -> Sequence[str]:
    """Pieces that join to exactly `text`: each a word with the white space before it."""
    return _WORD.findall(text)


def last_user_text(messages: Sequence[Json]) -> str:
    """The last text part of a user message; empty if there is none."""
    for message in reversed(messages):
        if message["role"] == "user":
            for part in reversed(message["parts"]):
                if part["type"] == "text":
                    return str(part["text"])
    return ""


def _call(text: str, step: int) -> PlaybookCall:
    calls = parse_playbook(text).calls
    return calls[step] if step < len(calls) else PAST_THE_END


def _failure(kind: Failure) -> ModelError:
    match kind:
        case "overloaded":
            return ModelOverloaded("The scripted model is overloaded")
        case "timeout":
            return ModelTimeout("The scripted model did not answer in time")
        case "rejected":
            return ModelRejected("The scripted model rejected the request")
        case _:
            assert_never(kind)


def _tool_call(index: int, tool: PlaybookTool) -> tuple[ModelEvent, ...]:
    return (
        ToolInputStart(index=index, name=tool.name),
        ToolInputDelta(index=index, text=msgspec.json.encode(tool.input).decode()),
        ToolInput(index=index, input=tool.input),
    )
