"""What stands around the events of a bundle: its manifest, its directory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import Bundle, exported, verified
from tests.support.some_history import SomeHistory, some_history
from workers.stack.servers import Servers

EVENTS = "events-00001.ndjson"


@pytest.fixture(scope="module")
def history(servers: Servers) -> Iterator[SomeHistory]:
    with some_history(servers) as made:
        yield made


@pytest.fixture(scope="module")
def whole(history: SomeHistory, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("bundles") / "whole"
    return exported(history.database, history.account, place, "--unsealed")


@pytest.fixture
def bundle(whole: Bundle, tmp_path: Path) -> Bundle:
    return whole.copy(tmp_path / "bundle")


def unlisted(bundle: Bundle) -> None:
    (bundle.place / "notes.txt").write_text("hello")


def in_a_directory(bundle: Bundle) -> None:
    (bundle.place / "more").mkdir()


def left_over(bundle: Bundle) -> None:
    (bundle.place / "events-00002.ndjson").write_bytes(b"")


def gone(bundle: Bundle) -> None:
    (bundle.place / EVENTS).unlink()


def linked(bundle: Bundle) -> None:
    (bundle.place / EVENTS).rename(bundle.place.parent / "elsewhere")
    (bundle.place / EVENTS).symlink_to(bundle.place.parent / "elsewhere")


def a_pipe(bundle: Bundle) -> None:
    (bundle.place / EVENTS).unlink()
    os.mkfifo(bundle.place / EVENTS)


def manifest_with(**changes: Any) -> Callable[[Bundle], None]:
    return lambda bundle: bundle.put_manifest(bundle.manifest | changes)


def file_with(**changes: Any) -> Callable[[Bundle], None]:
    """Of the first part of the events."""

    def change(bundle: Bundle) -> None:
        manifest = bundle.manifest
        manifest["files"][1] |= changes
        bundle.put_manifest(manifest)

    return change


def counts_with(**changes: Any) -> Callable[[Bundle], None]:
    return lambda bundle: bundle.put_manifest(
        bundle.manifest | {"counts": bundle.manifest["counts"] | changes}
    )


def window_with(**changes: Any) -> Callable[[Bundle], None]:
    return lambda bundle: bundle.put_manifest(
        bundle.manifest | {"window": bundle.manifest["window"] | changes}
    )


def asked_with(**changes: Any) -> Callable[[Bundle], None]:
    return lambda bundle: bundle.put_manifest(
        bundle.manifest | {"asked": bundle.manifest["asked"] | changes}
    )


def later_span(bundle: Bundle) -> None:
    asked_with(since="2036-01-01T00:00:00.000000Z")(bundle)
    window_with(since="2036-01-01T00:00:00.000000Z", until="2036-01-02T00:00:00.000000Z")(bundle)


def begun_later(bundle: Bundle) -> None:
    """Behind its first event; the time alone would not tell."""
    since = "2016-01-01T00:00:00.000000Z"
    asked_with(since=since)(bundle)
    window_with(since=since, after=int(bundle.objects("events")[0]["logposition"]))(bundle)


def ended_at_an_event(bundle: Bundle) -> None:
    """An end is not in the span."""
    window_with(until=max(event["time"] for event in bundle.objects("events")))(bundle)


def manifest_of(raw: bytes) -> Callable[[Bundle], None]:
    return lambda bundle: (bundle.place / "manifest.json").write_bytes(raw) and None


AROUND = {
    "a file more": (unlisted, "'notes.txt' does not belong to the bundle"),
    "a directory": (in_a_directory, "'more' does not belong to the bundle"),
    "a part more": (left_over, "'events-00002.ndjson' does not belong"),
    "a file gone": (gone, "events-00001.ndjson is missing"),
    "a link": (linked, "events-00001.ndjson is no regular file"),
    "a pipe": (a_pipe, "events-00001.ndjson is no regular file"),
    "a name that leads out": (
        file_with(name="../../etc/passwd"),
        "where events-00001.ndjson belongs",
    ),
    "a name with a control character": (file_with(name="\x1b[2J"), "lists '\\x1b[2J' where"),
    "a number that is none": (file_with(bytes=True), "files[].bytes is missing, or not what"),
    "a hash that is none": (file_with(sha256="x"), "files[].sha256 is missing, or not what"),
    "no files": (manifest_with(files=[]), "a number of files that no export has"),
    "files that are none": (manifest_with(files=[1]), "files is missing, or not what"),
    "another format": (
        manifest_with(format="runledger-bundle/2"),
        "is of format 'runledger-bundle/2'",
    ),
    "no account": (manifest_with(account=None), "account is missing, or not what"),
    "another account": (
        manifest_with(account="01900000-0000-7000-8000-0000000000a1"),
        "has another subject in its line than the bundle's account",
    ),
    "a smaller span": (window_with(through=3), "stands outside the bundle's positions"),
    "a later span": (
        later_span,
        "was committed outside the bundle's span of time",
    ),
    "a beginning that leaves positions out": (
        window_with(after=1),
        "window.after is missing, or not what",
    ),
    "a span that ends before it begins": (
        window_with(through=-1),
        "window.through is missing, or not what",
    ),
    "another span than was asked for": (
        asked_with(since="2016-01-01T00:00:00.000000Z"),
        "asked.since is missing, or not what",
    ),
    "another end than was asked for": (
        asked_with(until="2036-01-01T00:00:00.000000Z"),
        "asked.until is missing, or not what",
    ),
    "a mark that is none": (manifest_with(logMark="x"), "logMark is missing, or not what"),
    "a search that is neither": (
        manifest_with(searchedForLostHeads=1),
        "searchedForLostHeads is missing, or not what",
    ),
    "lost heads that are no number": (
        manifest_with(runsWithoutHead=True),
        "runsWithoutHead is missing, or not what",
    ),
    "no tool": (manifest_with(tool=None), "tool is missing, or not what"),
    "a span that begins behind its first event": (
        begun_later,
        "stands outside the bundle's positions",
    ),
    "a span that ends at its last event": (
        ended_at_an_event,
        "was committed outside the bundle's span of time",
    ),
    "a span without an end": (window_with(until=None), "window.until is missing, or not what"),
    "other counts": (counts_with(events=29), "the manifest counts 29 events, and there are 30"),
    "other types": (counts_with(byType={}), "counts other types of events"),
    "erased content that is here": (manifest_with(contentErased=True), "this says otherwise"),
    "a manifest that is no JSON": (manifest_of(b"{"), "manifest.json: it is not JSON"),
    "a manifest with NaN": (manifest_of(b'{"a": NaN}'), "manifest.json: NaN is no JSON"),
    "a manifest with a key twice": (manifest_of(b'{"a":1,"a":2}'), "the key 'a' stands twice"),
    "a manifest that is a list": (manifest_of(b"[]"), "manifest.json: it is no JSON object"),
}


@pytest.mark.parametrize("how", AROUND)
def test_what_is_wrong_around_the_events_is_told_in_a_sentence(bundle: Bundle, how: str) -> None:
    change, says = AROUND[how]
    change(bundle)
    code, words = verified(bundle)
    assert (code, says in words) == (1, True), words
    assert "Traceback" not in words
    assert "ok:" not in words
    assert "\x1b" not in words


@pytest.mark.parametrize(
    ("remove", "says"),
    [
        (True, " is an export that has not finished: it has no manifest.json"),
        (False, ": there is no manifest.json in it"),
    ],
)
def test_without_a_manifest_there_is_nothing_to_check(
    bundle: Bundle, remove: bool, says: str
) -> None:
    manifest = bundle.place / "manifest.json"
    if remove:
        manifest.rename(bundle.place / "unfinished.json")
    else:
        manifest.unlink()
    code, words = verified(bundle)
    assert (code, words) == (
        2,
        f"verify_history: could not look: {bundle.place}{says}\n".replace(": is an", " is an"),
    )
    nowhere = bundle.place / "nowhere"
    assert verified(nowhere) == (
        2,
        f"verify_history: could not look: {nowhere}: there is no such directory\n",
    )
