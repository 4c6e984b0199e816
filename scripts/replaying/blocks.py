"""What the panes of the interactive timeline hold of one event."""

from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec
from replaying.page import part_lines
from replaying.pane import Block
from replaying.replayed import ERASED, NOT_UNDERSTOOD, Row, lasted, priced, tokens

from runs_api.event_view import event_of
from runs_domain import events
from runs_domain.events import Json
from runs_domain.run import RunState

PANES: Final = ("state", "message", "event")
HEADING: Final = "bold cyan"
TOUCHED: Final = ""
OLDER: Final = "dim"
LABEL_COLUMNS: Final = 12


def blocks_of(pane: str, row: Row) -> tuple[list[Block], int]:
    """The blocks, and the first of them that the event is about."""
    match pane:
        case "state":
            return list(_state(row)), 0
        case "message":
            return _message(row)
        case _:
            return [Block("", partial(_raw, row))], 0


def _raw(row: Row) -> str:
    return msgspec.json.format(msgspec.json.encode(event_of(row.stored)), indent=2).decode()


def _state(row: Row) -> Iterator[Block]:
    stored, moment = row.stored, row.moment
    yield _line("event", f"{stored.version}, {stored.type}")
    yield _line("at", stored.at.isoformat(sep=" ", timespec="microseconds"))
    yield _line("by", f"{stored.actor}, attempt {stored.attempt}")
    if moment is None:
        yield _line("state", NOT_UNDERSTOOD, "red")
        return
    after, before = moment.since_request_seconds, moment.since_previous_seconds
    yield _line("after", f"{lasted(after)}, {lasted(before)} of them {moment.phase}")
    yield _line("what", moment.what)
    if moment.said or moment.erased:
        yield _line("said", moment.said or ERASED, "italic")
    yield _line("", "")
    state = moment.state
    cancel = ", a cancel is asked for" if state.cancel_requested else ""
    yield _line("status", f"{state.status}{cancel}", "bold")
    yield _line("attempt", f"{state.attempt}, {state.tries_lost} tries lost")
    calls = "" if state.open_calls is None else f", {len(state.open_calls)} open calls"
    parts = ERASED if state.parts is None else f"{state.parts}{calls}"
    yield _line("parts", parts)
    yield _line("model calls", str(state.model_steps))
    yield _line("tokens", tokens(state.usage))
    yield _line("cost", priced(state.cost))
    yield _line("", "")
    yield _line("hash", stored.hash, OLDER)
    yield _line("prev", stored.prev, OLDER)


def _line(label: str, text: str, style: str = "") -> Block:
    return Block(style, lambda: f"{label:<{LABEL_COLUMNS}}{text}")


def _message(row: Row) -> tuple[list[Block], int]:
    if row.state is None or row.state.requested is None or row.recorded is None:
        return [Block("red", lambda: NOT_UNDERSTOOD)], 0
    asks = isinstance(row.recorded.event, events.Requested)
    blocks: list[Block] = []
    if asks and row.recorded.erased:
        blocks.append(Block("italic", lambda: ERASED))
    for message in row.state.requested.messages:
        blocks += _one_message(message["role"], message["parts"], TOUCHED if asks else OLDER)
    touched = _touched(row.recorded.event, row.state)
    first = 0
    if row.state.parts:
        blocks.append(_heading("assistant"))
    for place, part in enumerate(row.state.parts):
        if place in touched and not first:
            first = len(blocks)
        hidden = place in row.state.hidden_parts
        blocks += _part(part, TOUCHED if place in touched else OLDER, hidden=hidden)
    if row.moment is not None and row.moment.state.parts is None:
        blocks += [_heading("assistant"), Block("italic", lambda: ERASED)]
    return blocks or [Block(OLDER, lambda: "nothing yet")], first


def _touched(event: events.Event, state: RunState) -> frozenset[int]:
    """Places of the parts that an event added or replaced."""
    if not isinstance(event, events.MessagePersisted):
        return frozenset()
    calls = {part["toolCallId"] for part in event.parts if "toolCallId" in part}
    return frozenset(
        place
        for place, part in enumerate(state.parts)
        if place >= event.first_part or part.get("toolCallId") in calls
    )


def _one_message(role: str, parts: list[Json], style: str) -> list[Block]:
    blocks = [_heading(role)]
    for part in parts:
        blocks += _part(part, style)
    return blocks


def _part(part: Json, style: str, *, hidden: bool = False) -> Iterator[Block]:
    if part["type"] != "step-start":
        note = "[cut off, not shown to the model] " if hidden else ""
        yield Block(style, lambda: note + "\n".join(part_lines(part)))


def _heading(role: str) -> Block:
    return Block(HEADING, lambda: role)
