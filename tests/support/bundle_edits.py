"""Ways to change a bundle's lines behind its back."""

import base64
import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

Change: TypeAlias = Callable[[list[bytes]], list[bytes]]


def edited(line: bytes, **changes: Any) -> bytes:
    """With other attributes; None takes one away."""
    said = json.loads(line) | changes
    return (
        json.dumps({name: value for name, value in said.items() if value is not None}).encode()
        + b"\n"
    )


def restated(line: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """With other stored bytes, and everything beside them made to fit."""
    stored = change(base64.b64decode(json.loads(line)["data_base64"]))
    return edited(
        line,
        data_base64=base64.b64encode(stored).decode(),
        sha256=hashlib.sha256(stored).hexdigest(),
    )


def at(place: int, change: Callable[[bytes], bytes]) -> Change:
    return lambda lines: [*lines[:place], change(lines[place]), *lines[place + 1 :]]


def without(place: int) -> Change:
    return lambda lines: [*lines[:place], *lines[place + 1 :]]


def swapped(place: int) -> Change:
    return lambda lines: [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]]


def doubled(place: int) -> Change:
    return lambda lines: [*lines[: place + 1], *lines[place:]]


def rechained(lines: list[bytes]) -> list[bytes]:
    """The first run's lines with new hashes from one to the next, as its forger would make them."""
    first = json.loads(lines[0])["runid"]
    out: list[bytes] = []
    prev = b""
    for line in lines:
        said = json.loads(line)
        new = line
        if said["runid"] == first and said["runversion"] > 1:
            old = json.loads(base64.b64decode(said["data_base64"]))["prev"].encode()
            new = restated(line, partial(_replaced, old, prev))
        prev = json.loads(new)["sha256"].encode()
        out.append(new)
    return out


def _replaced(old: bytes, new: bytes, stored: bytes) -> bytes:
    return stored.replace(old, new)
