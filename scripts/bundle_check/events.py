"""One line of the events, read with distrust: is it a CloudEvent of this format, and which?

Standard library only.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

from bundle_check.bundle import shown, strict_object

from runs_domain.proof import hash_of
from runs_domain.proof_shapes import is_positive, is_uuid

ATTRIBUTES: Final = frozenset(
    {
        *("specversion", "id", "source", "type", "subject", "time", "datacontenttype"),
        *("runid", "runversion", "logposition", "sha256", "data_base64"),
    }
)
POSITION_DIGITS_MAX: Final = 19


class BadLineError(Exception):
    """The message says what is wrong with the line; `run_id` and `version` are known if it is
    wrong beside the bytes alone.
    """


@dataclass(frozen=True, slots=True)
class EventLine:
    run_id: str
    version: int
    position: int
    tag: str
    time: str | None
    """None: the event does not say when it was committed."""
    subject: str
    stored: bytes
    hash: str
    wrong: str | None
    """What is wrong with an attribute beside the ones above; None = nothing."""


def read_event(line: bytes) -> EventLine:
    """Raises BadLineError where not even the run and the version are told."""
    try:
        said = strict_object(line)
    except ValueError as error:
        raise BadLineError(str(error)) from None
    run_id, version = said.get("runid"), said.get("runversion")
    if not is_uuid(run_id) or not is_positive(version):
        raise BadLineError("it has no runid and runversion")
    stored = _stored(said.get("data_base64"))
    digest = hash_of(stored)
    position = said.get("logposition")
    if type(position) is not str or not _is_position(position):
        raise BadLineError("it has no logposition")
    return EventLine(
        run_id=run_id,
        version=version,
        position=int(position),
        tag=said["type"] if type(said.get("type")) is str else "",
        time=said["time"] if type(said.get("time")) is str else None,
        subject=said["subject"] if type(said.get("subject")) is str else "",
        stored=stored,
        hash=digest,
        wrong=_wrong(said, digest),
    )


def _wrong(said: dict[str, Any], digest: str) -> str | None:
    run_id = said["runid"]
    expected = (
        ("specversion", "1.0"),
        ("id", f"{run_id}/{said['runversion']}"),
        ("source", f"/api/chat/runs/{run_id}"),
        ("datacontenttype", "application/json"),
        ("sha256", digest),
    )
    missing = ATTRIBUTES - said.keys()
    if missing:
        return f"has no {min(missing)} in its line"
    for name, value in expected:
        if said[name] != value:
            return f"has another {name} in its line than belongs there"
    if len(said) == len(ATTRIBUTES):
        return None
    strange = min(said.keys() - ATTRIBUTES)
    return f"has {shown(strange)} in its line, which the format does not know"


def _stored(text: Any) -> bytes:
    if type(text) is not str:
        raise BadLineError("it has no data_base64")
    try:
        stored = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadLineError("its data_base64 is not base64") from None
    if base64.b64encode(stored).decode() != text:
        raise BadLineError("its data_base64 is not as base64 writes it")
    return stored


def _is_position(text: str) -> bool:
    return (
        text.isascii()
        and text.isdecimal()
        and len(text) <= POSITION_DIGITS_MAX
        and not text.startswith("0")
    )
