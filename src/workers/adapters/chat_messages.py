"""UIMessages as the chat-completions format has them. Pure.

One assistant message of ours may hold many steps: each becomes an assistant message with its calls,
followed by one tool message a result, which is the only order that providers take.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from runs_domain.errors import ModelRejected
from runs_domain.events import Json
from runs_domain.history import called_tool, is_tool_part
from runs_domain.model_port import ToolSpec


def chat_messages(system: str, messages: Sequence[Json]) -> list[Json]:
    """`system` first, then each message in turn; reasoning and what is for people is left out.

    Raises ModelRejected for a tool part without a result: providers refuse such a history.
    """
    chat: list[Json] = [{"role": "system", "content": system}] if system else []
    for message in messages:
        match message["role"]:
            case "assistant":
                for step in _steps(message["parts"]):
                    chat += _assistant(step)
            case "user":
                content = _user_content(message["parts"])
                chat += [{"role": "user", "content": content}] if content else []
            case _:
                text = _text(message["parts"])
                chat += [{"role": "system", "content": text}] if text else []
    return chat


def chat_tools(tools: Iterable[ToolSpec]) -> list[Json]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.input_schema,
            },
        }
        for tool in tools
    ]


def _text(parts: Iterable[Json]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _user_content(parts: Sequence[Json]) -> str | list[Json]:
    content = [_user_part(part) for part in parts if part["type"] in {"text", "file"}]
    if len(content) == 1 and content[0]["type"] == "text":
        return str(content[0]["text"])
    return content


def _user_part(part: Json) -> Json:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["mediaType"].startswith("image/"):
        return {"type": "image_url", "image_url": {"url": part["url"]}}
    file = {"filename": part.get("filename", "file"), "file_data": part["url"]}
    return {"type": "file", "file": file}


def _steps(parts: Iterable[Json]) -> Iterator[list[Json]]:
    step: list[Json] = []
    for part in parts:
        if part["type"] == "step-start":
            yield step
            step = []
        else:
            step.append(part)
    yield step


def _assistant(step: Sequence[Json]) -> list[Json]:
    text = _text(step)
    calls = [part for part in step if is_tool_part(part)]
    if not calls:
        return [{"role": "assistant", "content": text}] if text else []
    return [
        {
            "role": "assistant",
            "content": text or None,
            "tool_calls": [
                {
                    "id": part["toolCallId"],
                    "type": "function",
                    "function": {"name": called_tool(part), "arguments": _arguments(part)},
                }
                for part in calls
            ],
        },
        *(
            {"role": "tool", "tool_call_id": part["toolCallId"], "content": _result(part)}
            for part in calls
        ),
    ]


def _arguments(part: Json) -> str:
    """Some providers parse this, so an input that never became whole is an empty object."""
    value = part.get("input")
    return _compact({} if value is None else value)


def _result(part: Json) -> str:
    match part.get("state"):
        case "output-available":
            output = part["output"]
            return output if isinstance(output, str) else _compact(output)
        case "output-error":
            return str(part["errorText"])
        case _:
            raise ModelRejected("The history has a tool call without a result")


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()
