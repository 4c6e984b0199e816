"""What an exported history is made of: the names in its directory, its limits, what its manifest
says. docs/export.md tells it to outsiders.

Standard library only: whoever checks a bundle needs Python and nothing else.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

FORMAT: Final = "runledger-bundle/1"
FORMAT_UNFINISHED: Final = "runledger-bundle-unfinished/1"
MANIFEST: Final = "manifest.json"
"""Written last: a directory without it is no bundle yet."""
UNFINISHED: Final = "unfinished.json"
"""What was asked and how far it has come; it becomes the manifest."""
UNFINISHED_NEW: Final = "unfinished.json.new"
RUNS: Final = "runs.ndjson"
EVENTS: Final = "events"
CONTENT: Final = "content"
OURS: Final = re.compile(
    r"(manifest\.json|unfinished\.json(\.new)?|runs\.ndjson|(events|content)-[0-9]{5}\.ndjson)"
)

PARTS_MAX: Final = 99_999
PART_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of a part of the events; one line that is longer is a part by itself."""
PART_EVENTS_MAX: Final = 100_000
LINE_BYTES_MAX: Final = 24 * 1024 * 1024
"""Of an event's line: the largest event (16 MiB) in base64, and its attributes."""
CONTENT_LINE_BYTES_MAX: Final = 32 * 1024 * 1024
RUN_LINE_BYTES_MAX: Final = 4096
MANIFEST_BYTES_MAX: Final = 64 * 1024 * 1024

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600


_AT_THE_END: Final = frozenset(
    {"run.completed", "run.failed", "run.cancelled", "run.key_revoked", "run.sandbox_released"}
)
"""Events after which a run goes on no more; each is followed by none or by another of these."""


class BadBundleError(Exception):
    """The message is a sentence; what stands in the bundle is quoted as ASCII."""


def part_name(kind: str, number: int) -> str:
    """`events-00001.ndjson`; `number` counts from 1."""
    return f"{kind}-{number:05}.ndjson"


def is_at_the_end(tag: str) -> bool:
    """Whether a run has ended whose last event is of this type, in whatever version of it."""
    return tag.rpartition(".")[0] in _AT_THE_END


def account_of(place: Path) -> UUID | None:
    """Whose history `place` holds, finished or not; None if it is no bundle's directory.

    Raises BadBundleError if it is one and does not say whose, OSError if it cannot be read.
    """
    for name in (MANIFEST, UNFINISHED):
        try:
            said = read_object(place, name)
        except FileNotFoundError:
            continue
        try:
            return UUID(said["account"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BadBundleError(f"{name} names no account") from None
    return None


def read_object(place: Path, name: str) -> dict[str, Any]:
    """The JSON object in one of the small files. Raises BadBundleError, OSError."""
    with open_plain(place, name) as file:
        raw = file.read(MANIFEST_BYTES_MAX + 1)
    if len(raw) > MANIFEST_BYTES_MAX:
        raise BadBundleError(f"{name} has more than {MANIFEST_BYTES_MAX} bytes")
    try:
        return strict_object(raw)
    except ValueError as error:
        raise BadBundleError(f"{name}: {error}") from None


def open_plain(place: Path, name: str) -> BinaryIO:
    """A regular file of that directory; links, pipes and devices are refused.

    Raises BadBundleError, OSError.
    """
    path = place / name
    if not OURS.fullmatch(name):
        raise BadBundleError(f"{shown(name)} is no name of a bundle's file")
    if not stat.S_ISREG(path.lstat().st_mode):
        raise BadBundleError(f"{name} is no regular file")
    # Should it have become something else since: never follow it, never wait for it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(descriptor, "rb", buffering=1024 * 1024)


def strict_object(raw: bytes) -> dict[str, Any]:
    """One JSON object as RFC 8259 has it: UTF-8, no NaN, no key twice. Raises ValueError."""
    try:
        found = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - a bad value, for the caller
    return found


def shown(value: object) -> str:
    """For a message: ASCII, and not long, whatever somebody has put there."""
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}..."


SHOWN_CHARACTERS_MAX: Final = 80


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {shown(twice)} stands twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
