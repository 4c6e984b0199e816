"""Dead letters and their runs, as operators see them."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from runs_domain.dead_letters_port import DeadLetter
from runs_domain.ports import Head
from runs_domain.storage.dead_letters import LETTERS_MAX

HEADINGS: Final = ("kind", "id", "reason", "state", "tries", "buried at", "account", "last error")
LINE: Final = "{:4}  {:36}  {:15}  {:7}  {:>5}  {:25}  {:36}  {}"
EVENT_HEADINGS: Final = ("version", "type", "at", "actor", "attempt")
EVENT_LINE: Final = "{:>7}  {:26}  {:27}  {:20}  {}"


def print_list(found: Sequence[DeadLetter], *, as_json: bool, closed_too: bool) -> None:
    if as_json:
        print(msgspec.json.encode(found).decode())
    elif not found:
        print("no letters" if closed_too else "no open letters", file=sys.stderr)
    else:
        print(LINE.format(*HEADINGS))
        for one in found:
            state, at = one.closed_how or "open", _time(one.buried_at)
            known = (one.kind, str(one.id), one.reason, state, one.tries)
            print(LINE.format(*known, at, str(one.account_id), one.last_error))
    if len(found) == LETTERS_MAX:
        print(f"… there may be more than {LETTERS_MAX}", file=sys.stderr)


def print_letters(
    letters: Sequence[DeadLetter],
    head: Head | None,
    chat: Sequence[Head],
    events: Sequence[dict[str, Any]],
) -> None:
    """Those of one run, the run (`chat`: all runs of its chat), its events, what can be done."""
    for letter in letters:
        _print_letter(letter)
    if head is not None:
        live = [one.run_id for one in chat if one.live]
        held = f"held by run {live[0]}" if live else "free"
        print(f"run:        {head.status}, its chat {head.chat_id} is {held}")
    _print_events(events)
    print(_what_can_be_done(letters))


def _print_events(events: Sequence[dict[str, Any]]) -> None:
    print(EVENT_LINE.format(*EVENT_HEADINGS))
    for event in events:
        print(EVENT_LINE.format(*(str(event.get(name, "")) for name in EVENT_HEADINGS)).rstrip())
        if "data" in event:
            print(f"{'':7}  {bytes(event['data']).decode()}")


def _what_can_be_done(letters: Sequence[DeadLetter]) -> str:
    run = letters[0].id
    if any(letter.closed_how is None for letter in letters):
        return f"next:       retry {run}, or drop {run}"
    if any(letter.closed_how == "dropped" for letter in letters):
        return f"next:       nothing, or retry {run}"
    return "next:       nothing: it was retried"


def _print_letter(letter: DeadLetter) -> None:
    print(f"letter:     {letter.id} of account {letter.account_id}")
    print(f"reason:     {letter.reason}, after {letter.tries} tries")
    print(f"last error: {letter.last_error}")
    print(f"buried:     {_time(letter.buried_at)}")
    if letter.closed_at is not None:
        again = f" as run {letter.retried_as}" if letter.retried_as else ""
        how = f"{letter.closed_how}{again} by {letter.closed_by}"
        print(f"closed:     {_time(letter.closed_at)}, {how}")
    if letter.withheld:
        print("job:        not sent until it is retried")


def _time(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")
