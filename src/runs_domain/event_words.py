"""What an event did, in one short sentence for people, and a few words of what was said in it."""

from collections.abc import Iterable
from typing import Any, Final, assert_never

import msgspec

from runs_domain import events
from runs_domain.events import Event, Json
from runs_domain.frames import TOOL_PREFIX
from runs_domain.run import RunState

SAID_CHARACTERS_MAX: Final = 160
_OUTPUT_TEXT_KEYS: Final = ("text", "errorText", "output", "input")
"""Of a part, the first that it has is what it says."""


def sentence(  # noqa: C901, PLR0912 - one branch a fact
    event: Event, before: RunState, *, erased: bool = False
) -> str:
    """Without content, but for the reasons that people gave; `before` is the state it fell into."""
    match event:
        case events.Requested():
            messages = "an erased request" if erased else _many(len(event.messages), "message")
            return f"asked with {messages} for {event.model}"
        case events.Provisioned():
            failed = [item.name for item in event.items if not item.ok]
            made = "named" if event.state == "named" else "opened"
            without = f", without {', '.join(failed)}" if failed else ""
            return f"{event.provider} sandbox {made}{without}"
        case events.KeyMinted():
            return f"run key minted, good for {event.ttl_seconds} s"
        case events.Started():
            return "started"
        case events.Resumed():
            lost = f", {_many(event.frames_lost, 'chunk')} lost" if event.frames_lost else ""
            why = "its worker was lost" if event.reason == "lost" else "handed over"
            return f"attempt {event.attempt} took it up: {why}{lost}"
        case events.MessagePersisted():
            return _message_sentence(event, before, erased=erased)
        case events.ToolStarted():
            return f"started {_calls(event.call_ids, before.parts)}"
        case events.CancelRequested():
            return f"{event.by} wants it cancelled: {event.why}"
        case events.Completed():
            return f"completed ({event.finish_reason})"
        case events.Failed():
            return f"failed ({event.code}): {event.sentence}"
        case events.Cancelled():
            return "cancelled"
        case events.SandboxReleased():
            pushed = ", work pushed" if event.pushed else ""
            return f"sandbox given back{pushed}" if event.found else "no sandbox to give back"
        case events.KeyRevoked():
            return "run key revoked"
        case _:
            assert_never(event)


def said(event: Event) -> str:
    """The beginning of what a person, a model or a tool said; "" where nothing was said."""
    match event:
        case events.Requested(messages=messages):
            parts: Iterable[Json] = messages[-1]["parts"] if messages else ()
        case events.MessagePersisted(parts=parts):
            pass
        case _:
            return ""
    words = " ".join(filter(None, map(_words_of, parts)))
    return words if len(words) <= SAID_CHARACTERS_MAX else words[: SAID_CHARACTERS_MAX - 1] + "…"


def tool_of(part: Json) -> str:
    """A tool part's name; "" for a part that is none."""
    kind: str = part["type"]
    if kind.startswith(TOOL_PREFIX):
        return kind.removeprefix(TOOL_PREFIX)
    return str(part.get("toolName", ""))


def _message_sentence(event: events.MessagePersisted, before: RunState, *, erased: bool) -> str:
    if erased:
        what = "(erased)"
    else:
        calls = [tool_of(part) for part in event.parts if "toolCallId" in part]
        texts = sum(len(part["text"]) for part in event.parts if part["type"] == "text")
        told = [_many(texts, "character")] * bool(texts) + [", ".join(calls)] * bool(calls)
        what = " and ".join(told) or "nothing"
    if event.finish_reason is not None:
        return f"model answered ({event.finish_reason}): {what}"
    if not event.interrupted:
        return f"result of {what}"
    return f"closed unfinished: {what}" if before.open_calls else f"cut off, kept: {what}"


def _calls(call_ids: Iterable[str], parts: Iterable[Json]) -> str:
    names = {part["toolCallId"]: tool_of(part) for part in parts if "toolCallId" in part}
    return ", ".join(names.get(one, "a call") for one in call_ids)


def _words_of(part: Json) -> str:
    value: Any = next((part[key] for key in _OUTPUT_TEXT_KEYS if part.get(key) is not None), None)
    if value is None:
        return ""
    if not isinstance(value, str):
        value = msgspec.json.encode(value).decode()
    # Only the beginning is looked at: a value may have megabytes.
    return " ".join(value[: 2 * SAID_CHARACTERS_MAX].split())


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
