"""A run's history as plain text, for pipes, files and narrow terminals."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from replaying.replayed import (
    ERASED,
    NOT_UNDERSTOOD,
    Replay,
    Row,
    in_and_out,
    lasted,
    many,
    messages_then,
    priced,
    tokens,
)
from replaying.safe_text import safe_line, safe_text
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from runs_domain.event_words import tool_of
from runs_domain.timeline import PHASES

COLUMNS_MIN: Final = 40


def print_page(shown: Replay, *, columns: int) -> None:
    """By `print`, so that a reader who has left is a BrokenPipeError here as everywhere."""
    console = Console(width=max(columns, COLUMNS_MIN), color_system=None, highlight=False)
    for part in (*_head(shown), _timeline(shown), *_spent(shown)):
        with console.capture() as captured:
            console.print(part)
        print("\n".join(line.rstrip() for line in captured.get().split("\n")), end="")
    for line in _messages(shown):
        print(line)
    if shown.trouble is not None:
        print(f"\n{safe_line(shown.trouble)}")


def _head(shown: Replay) -> Iterator[RenderableType]:
    summary = shown.timeline.summary
    if summary is None:
        yield Text(f"run {shown.run_id}")
        return
    yield Text(
        f"run       {shown.run_id}\n"
        f"status    {summary.status}, at version {summary.version}\n"
        f"model     {safe_line(summary.model)}\n"
        f"chat      {summary.chat_id}\n"
        f"account   {summary.account_id}\n"
        f"requested {summary.created_at.isoformat(sep=' ', timespec='milliseconds')}\n"
    )


def _timeline(shown: Replay) -> Table:
    table = _table("#", "after", "took", right=3)
    table.add_column("what", overflow="fold")
    for row in shown.rows:
        table.add_row(str(row.stored.version), *_times(row), _what(row))
    return table


def _times(row: Row) -> tuple[str, str]:
    if row.moment is None:
        return "", ""
    return lasted(row.moment.since_request_seconds), lasted(row.moment.since_previous_seconds)


def _what(row: Row) -> Text:
    if row.moment is None:
        return Text(f"{safe_line(row.stored.type)}: {NOT_UNDERSTOOD}")
    what = Text(safe_line(row.moment.what))
    if row.moment.said:
        what.append(f"\n“{safe_line(row.moment.said)}”")
    return what


def _spent(shown: Replay) -> Iterator[RenderableType]:
    if shown.timeline.summary is None:
        return
    table = _table("step", "events")
    for name in ("took", "tokens in+out", "USD"):
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    for step in shown.timeline.steps:
        table.add_row(
            Text(safe_line(f"{step.kind} {step.name}".strip())),
            f"{step.began}-{step.ended or ''}",
            "" if step.seconds is None else lasted(step.seconds),
            "" if step.usage is None else in_and_out(step.usage),
            "" if step.cost is None else f"{step.cost:f}",
            "" if step.outcome == "done" else step.outcome,
        )
    yield ""
    yield table
    yield Text("\n" + "\n".join(totals(shown)))


def totals(shown: Replay) -> Iterator[str]:
    """Lines that say what the run came to so far."""
    total = shown.timeline.totals()
    spent = [(phase, total.seconds[phase]) for phase in PHASES if total.seconds[phase]]
    parts = ", ".join(f"{phase} {lasted(seconds)}" for phase, seconds in spent)
    yield f"time      {lasted(total.seconds['total'])}" + (f": {parts}" if parts else "")
    calls = f"{total.model_calls} of the model, {total.tool_calls} of tools"
    cut_off = many(total.unpriced_calls, "call") + " cut off, whose tokens nobody told"
    yield f"calls     {calls}" + f"; {cut_off}" * bool(total.unpriced_calls)
    yield f"tries     {many(total.attempts, 'attempt')}, {total.tries_lost} lost"
    yield f"tokens    {tokens(total.usage)}"
    yield f"cost      {priced(total.cost)}"
    charged = "nothing yet" if total.credits_charged is None else total.credits_charged
    yield f"credits   {total.credits_reserved} reserved, {charged} charged"


def _messages(shown: Replay) -> Iterator[str]:
    """As they were; whole, since this is the record."""
    if shown.stream and shown.stream[0].erased:
        yield f"\nuser\n{ERASED}"
    for message in messages_then(shown):
        if message["parts"]:
            yield f"\n{safe_line(message['role'])}"
        for part in message["parts"]:
            yield from map(safe_text, part_lines(part))
    if shown.timeline.moments and shown.timeline.moments[-1].state.parts is None:
        yield f"\nassistant\n{ERASED}"


def part_lines(part: dict[str, Any]) -> Iterator[str]:
    """Each may hold line ends, and whatever people and models wrote."""
    kind = part["type"]
    if kind == "step-start":
        return
    if kind == "text":
        yield part["text"]
    elif kind == "reasoning":
        yield f"[reasoning] {part['text']}"
    elif "toolCallId" in part:
        state = part.get("state", "")
        yield f"[{tool_of(part)}: {state}] {_json(part.get('input'))}"
        if state == "output-available":
            yield f"=> {_output(part.get('output'))}"
        elif "errorText" in part:
            yield f"=> error: {part['errorText']}"
    else:
        yield f"[{kind}] {_json({key: part[key] for key in part if key != 'type'})}"


def _output(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _table(*names: str, right: int = 0) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(names):
        justify = "right" if place < right else "left"
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table
