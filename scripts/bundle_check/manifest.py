"""What a manifest says, read with distrust."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bundle_check.bundle import (
    CONTENT,
    EVENTS,
    FORMAT,
    MANIFEST,
    PARTS_MAX,
    RUNS,
    BadBundleError,
    part_name,
    read_object,
    shown,
)

from runs_domain.proof_shapes import is_count, is_time, is_uuid

COUNTS: Final = ("runs", "events", "begunBefore", "ended", "erased", "damaged")
SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileFacts:
    name: str
    bytes: int
    lines: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    account: str
    since: str | None
    until: str
    after: int
    through: int
    unsealed: bool
    content_erased: bool
    counts: dict[str, int]
    by_type: dict[str, int]
    runs: FileFacts
    parts: tuple[tuple[FileFacts, FileFacts | None], ...]
    """Events, and the content beside them if the bundle has any."""

    @property
    def names(self) -> frozenset[str]:
        files = [file for part in self.parts for file in part if file is not None]
        return frozenset({MANIFEST, self.runs.name, *(file.name for file in files)})


def read_manifest(place: Path) -> ManifestFacts:
    """Raises BadBundleError for a manifest that is none, OSError."""
    said = read_object(place, MANIFEST)
    if said.get("format") != FORMAT:
        raise BadBundleError(
            f"{MANIFEST} is of format {shown(said.get('format'))}, and this checks {FORMAT}"
        )
    asked, window, counts = (_object(said, name) for name in ("asked", "window", "counts"))
    _need_span(asked, window)
    _need(is_uuid(said.get("account")), "account")
    _need(type(asked.get("unsealed")) is bool, "asked.unsealed")
    for name in ("contentErased", "searchedForLostHeads"):
        _need(type(said.get(name)) is bool, name)
    _need(is_count(said.get("runsWithoutHead")), "runsWithoutHead")
    _need(type(said.get("tool")) is str, "tool")
    mark = said.get("logMark")
    _need(type(mark) is str and SHA256.fullmatch(mark) is not None, "logMark")
    for name in COUNTS:
        _need(is_count(counts.get(name)), f"counts.{name}")
    by_type = _object(counts, "byType")
    _need(all(map(is_count, by_type.values())), "counts.byType")
    runs, parts = _files(said.get("files"), unsealed=asked["unsealed"])
    return ManifestFacts(
        account=said["account"],
        since=window["since"],
        until=window["until"],
        after=window["after"],
        through=window["through"],
        unsealed=asked["unsealed"],
        content_erased=said["contentErased"],
        counts={name: counts[name] for name in COUNTS},
        by_type=by_type,
        runs=runs,
        parts=parts,
    )


def _need_span(asked: dict[str, Any], window: dict[str, Any]) -> None:
    """What was asked for is what it is of: "from the beginning" leaves no position out."""
    since, until = window.get("since"), window.get("until")
    _need(since is None or is_time(since), "window.since")
    _need(is_time(until), "window.until")
    for name in ("after", "through"):
        _need(is_count(window.get(name)), f"window.{name}")
    _need(window["after"] <= window["through"], "window.through")
    _need(since is not None or window["after"] == 0, "window.after")
    _need(asked.get("since") == since, "asked.since")
    _need(asked.get("until") in (None, until), "asked.until")


def _files(
    listed: Any, *, unsealed: bool
) -> tuple[FileFacts, tuple[tuple[FileFacts, FileFacts | None], ...]]:
    """The names are fixed, so that none can lead anywhere else."""
    _need(type(listed) is list, "files")
    files = [_file(one) for one in listed]
    a_part = 2 if unsealed else 1
    expected = [RUNS]
    for number in range(1, min(len(files) // a_part, PARTS_MAX) + 1):
        expected.append(part_name(EVENTS, number))
        if unsealed:
            expected.append(part_name(CONTENT, number))
    for file, name in zip(files, expected, strict=False):
        if file.name != name:
            raise BadBundleError(f"{MANIFEST} lists {shown(file.name)} where {name} belongs")
    if len(files) < 1 or (len(files) - 1) % a_part or len(files) - 1 > a_part * PARTS_MAX:
        raise BadBundleError(f"{MANIFEST} lists a number of files that no export has")
    runs, *rest = files
    if unsealed:
        return runs, tuple(zip(rest[::2], rest[1::2], strict=True))
    return runs, tuple((file, None) for file in rest)


def _file(one: Any) -> FileFacts:
    _need(type(one) is dict, "files")
    for name, fits in (
        ("name", type(one.get("name")) is str),
        ("bytes", is_count(one.get("bytes"))),
        ("lines", is_count(one.get("lines"))),
        ("sha256", type(one.get("sha256")) is str and SHA256.fullmatch(one["sha256"])),
    ):
        _need(bool(fits), f"files[].{name}")
    return FileFacts(one["name"], one["bytes"], one["lines"], one["sha256"])


def _object(said: dict[str, Any], name: str) -> dict[str, Any]:
    _need(type(said.get(name)) is dict, name)
    found: dict[str, Any] = said[name]
    return found


def _need(fits: bool, name: str) -> None:
    if not fits:
        raise BadBundleError(f"{MANIFEST}: {name} is missing, or not what it should be")
