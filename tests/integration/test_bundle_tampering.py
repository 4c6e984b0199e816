"""A bundle that somebody has changed, checked by a bare Python with no packages and no database.

Whoever forges makes the manifest fit (`forged`): then the chains, the lines beside them and the
counts must tell.
"""

import hashlib
import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.bundle_edits import at, doubled, edited, rechained, restated, swapped, without
from tests.support.bundles import Bundle, exported, scripts_importable, verified
from tests.support.some_history import SomeHistory, some_history
from workers.stack.servers import Servers

EVENTS = "events-00001.ndjson"
CONTENT = "content-00001.ndjson"
RUNS = "runs.ndjson"


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


def test_a_whole_bundle_is_told_so_by_a_bare_python(whole: Bundle, history: SomeHistory) -> None:
    code, words = verified(whole)
    assert code == 0, words
    assert words.startswith(f"4 runs, 30 events of account {history.account}\n")
    digest = hashlib.sha256((whole.place / "manifest.json").read_bytes()).hexdigest()
    assert f"manifest: SHA-256 {digest}\n" in words
    code, answer = verified(whole, "--json")
    found = json.loads(answer)
    assert (code, found["ok"], found["bundle"], found["first"]) == (0, True, [], [])
    assert (found["runs"], found["manifestSha256"]) == (4, digest)


NOT_FORGED = {
    "a byte": (
        EVENTS,
        at(3, lambda line: line.replace(b"1.0", b"1.1", 1)),
        "does not have the SHA",
    ),
    "a line gone": (EVENTS, without(3), "29 lines"),
    "a line more": (EVENTS, doubled(3), "has more than the"),
    "lines swapped": (EVENTS, swapped(3), "does not have the SHA-256"),
    "cut short": (EVENTS, lambda lines: [*lines[:-1], lines[-1][:-1]], "its last line has no end"),
    "emptied": (EVENTS, lambda _: [], "has 0 bytes and 0 lines"),
    "a run's line gone": (RUNS, without(1), "runs.ndjson has"),
    "a space in a run's line": (
        RUNS,
        at(1, lambda line: line.replace(b":", b": ", 1)),
        "more than",
    ),
    "a content line gone": (CONTENT, without(0), "content-00001.ndjson has"),
    "content changed": (
        CONTENT,
        at(0, lambda line: line.replace(b"y", b"x")),
        "does not have the SHA",
    ),
}


@pytest.mark.parametrize("how", NOT_FORGED)
def test_a_changed_file_is_found_by_the_manifest(bundle: Bundle, how: str) -> None:
    name, change, says = NOT_FORGED[how]
    bundle.change(name, change, forged=False)
    code, words = verified(bundle)
    assert (code, says in words) == (1, True), words
    assert "ok:" not in words


FORGED = {
    "a byte of what is stored": (
        EVENTS,
        at(
            1,
            lambda line: restated(line, lambda stored: stored.replace(b"workspace", b"workspice")),
        ),
        "is not what version 3 was written after",
    ),
    "a byte of the last event": (
        EVENTS,
        at(7, lambda line: restated(line, lambda stored: stored.replace(b"false", b"true"))),
        "does not have the hash that its head holds",
    ),
    "stored bytes that are no JSON": (
        EVENTS,
        at(2, lambda line: restated(line, lambda stored: stored[:-1])),
        "version 3 is not one JSON object",
    ),
    "stored bytes alone": (
        EVENTS,
        at(2, lambda line: edited(line, data_base64="e30=")),
        "version 3 has another sha256 in its line",
    ),
    "no base64": (EVENTS, at(2, lambda line: edited(line, data_base64="e30")), "is not base64"),
    "base64 with spare bits": (
        EVENTS,
        at(2, lambda line: edited(line, data_base64="e31=")),
        "is not as base64 writes it",
    ),
    "another type": (
        EVENTS,
        at(2, lambda line: edited(line, type="run.started.v1")),
        "version 3 is the event of another place",
    ),
    "another time": (
        EVENTS,
        at(2, lambda line: edited(line, time="2026-01-01T00:00:00.000000Z")),
        "version 3 has another time in its line",
    ),
    "no time": (EVENTS, at(2, lambda line: edited(line, time=None)), "has no time in its line"),
    "another id": (EVENTS, at(2, lambda line: edited(line, id="x/3")), "another id in its line"),
    "another subject": (
        EVENTS,
        at(2, lambda line: edited(line, subject="x")),
        "version 3 has another subject",
    ),
    "another source": (EVENTS, at(2, lambda line: edited(line, source="/")), "another source"),
    "an extension of somebody's": (EVENTS, at(2, lambda line: edited(line, note="x")), "'note'"),
    "data beside": (EVENTS, at(2, lambda line: edited(line, data={})), "has 'data' in its line"),
    "a later version of the format": (
        EVENTS,
        at(2, lambda line: edited(line, specversion="2.0")),
        "another specversion",
    ),
    "another place in the log": (
        EVENTS,
        at(2, lambda line: edited(line, logposition="1")),
        "stands before its predecessor in the log",
    ),
    "a place outside the span": (
        EVENTS,
        at(7, lambda line: edited(line, logposition="99999")),
        "version 8 stands outside the bundle's positions",
    ),
    "a place that is no number": (
        EVENTS,
        at(2, lambda line: edited(line, logposition="٣")),
        "it has no logposition",
    ),
    "no run": (EVENTS, at(2, lambda line: edited(line, runid=7)), "it has no runid and runversion"),
    "an event taken out": (EVENTS, without(2), "version 4 follows version 2"),
    "the first event taken out": (EVENTS, without(0), "version 2 follows version 0"),
    "the last event taken out": (EVENTS, without(7), "and its head is at version 8"),
    "events swapped": (EVENTS, swapped(1), "version 3 follows version 1"),
    "an event twice": (EVENTS, doubled(2), "version 3 follows version 3"),
    "an event of another run put in": (
        EVENTS,
        lambda lines: [*lines[:2], lines[12], *lines[2:]],
        "version 5 follows version 0",
    ),
    "NaN": (
        EVENTS,
        at(2, lambda line: line.replace(b'"runversion":3', b'"runversion":NaN')),
        "NaN",
    ),
    "a key twice": (
        EVENTS,
        at(2, lambda line: line.replace(b'"runid"', b'"id":"","runid"')),
        "line 3: the key 'id' stands twice",
    ),
    "no UTF-8": (EVENTS, at(2, lambda line: line.replace(b"run.", b"\xff")), "it is not UTF-8"),
    "depth without end": (
        EVENTS,
        at(2, lambda _: b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"),
        "it is nested too deeply",
    ),
    "a number without end": (
        EVENTS,
        at(2, lambda line: line.replace(b'"runversion":3', b'"runversion":' + b"3" * 5000)),
        "events-00001.ndjson: line 3: ",
    ),
    "a list": (EVENTS, at(2, lambda _: b"[]\n"), "line 3: it is no JSON object"),
    "an empty line": (EVENTS, at(2, lambda _: b"\n"), "line 3: it is not JSON"),
    "an endless line": (
        EVENTS,
        at(2, lambda _: b" " * (24 * 1024 * 1024 + 1) + b"\n"),
        "line 3 is longer than 25165824 bytes",
    ),
    "a run's line taken out": (RUNS, without(1), "runs.ndjson has no line of run"),
    "a run's line twice": (RUNS, doubled(1), "and the events do not"),
    "runs' lines swapped": (RUNS, swapped(1), "was requested before that of the line above"),
    "another last hash": (
        RUNS,
        at(0, lambda line: edited(line, lastHash="0" * 64)),
        "does not have the hash that its head holds",
    ),
    "another last version": (
        RUNS,
        at(0, lambda line: edited(line, lastVersion=9)),
        "its head is at version 9",
    ),
    "another first version": (
        RUNS,
        at(0, lambda line: edited(line, firstVersion=2)),
        "version 1 follows version 1",
    ),
    "another anchor": (
        RUNS,
        at(0, lambda line: edited(line, anchor="0" * 64)),
        "has another anchor than its stream begins with",
    ),
    "another count": (
        RUNS,
        at(0, lambda line: edited(line, events=9)),
        "another 'events' than its events do",
    ),
    "another end": (
        RUNS,
        at(0, lambda line: edited(line, ended=False)),
        "another 'ended' than its events do",
    ),
    "another erasure": (
        RUNS,
        at(0, lambda line: edited(line, erased=True)),
        "another 'erased' than its events do",
    ),
    "another request": (
        RUNS,
        at(3, lambda line: edited(line, requestedPosition=10**9)),
        "was requested elsewhere in the log",
    ),
    "a run's line that is none": (RUNS, at(0, lambda _: b"{}\n"), "line 1: it has other keys"),
    "a run's line of another kind": (
        RUNS,
        at(0, lambda line: edited(line, events="8")),
        "line 1: events is not what it should be",
    ),
    "content taken out": (CONTENT, without(0), "content-00001.ndjson: line 1: it is about"),
    "the last content taken out": (
        CONTENT,
        lambda lines: lines[:-1],
        "it is missing: the content of",
    ),
    "content twice": (CONTENT, doubled(0), "content-00001.ndjson: line 2: it is about"),
    "content of no event": (
        CONTENT,
        lambda lines: [*lines, edited(lines[-1], id="x/1")],
        "content-00001.ndjson has 1 lines more than",
    ),
    "content that is said to be erased": (
        CONTENT,
        at(0, lambda line: edited(line, data=None, erased=True)),
        "it does not give the data of",
    ),
    "what stands in clear changed in the content": (
        CONTENT,
        at(0, lambda line: line.replace(b"scripted/echo", b"scripted/eche")),
        "it says otherwise than",
    ),
    "a number in the content of another kind": (
        CONTENT,
        at(1, lambda line: line.replace(b'"firstPart":0', b'"firstPart":false')),
        "line 2: it says otherwise than",
    ),
    "a fact in the content that the event does not state": (
        CONTENT,
        at(1, lambda line: line.replace(b'"firstPart":0', b'"firstPart":0,"interrupted":true')),
        "line 2: it says otherwise than",
    ),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_changed_event_is_found_though_the_manifest_was_made_to_fit(
    bundle: Bundle, how: str
) -> None:
    name, change, says = FORGED[how]
    bundle.change(name, change, forged=True)
    code, words = verified(bundle)
    assert (code, says in words) == (1, True), words
    assert "Traceback" not in words
    assert "ok:" not in words


@pytest.mark.parametrize("show", [0, 1, 2])
def test_of_many_bad_runs_as_many_are_named_as_were_asked_for(bundle: Bundle, show: int) -> None:
    bundle.change(
        EVENTS,
        lambda lines: [
            restated(
                line, lambda stored: stored.replace(b'"provider":"none"', b'"provider":"nine"')
            )
            for line in lines
        ],
        forged=True,
    )
    code, words = verified(bundle, "--show", str(show))
    assert (code, words.count("  run ")) == (1, show)
    assert "4 runs with a bad or unknown event" in words or not show
    assert f"  and {4 - show} runs more\n" in words
    assert json.loads(verified(bundle, "--show", "0", "--json")[1])["badRuns"] == 4


def test_an_event_of_a_newer_release_is_no_fault_and_no_clean_bill(bundle: Bundle) -> None:
    """Its bytes and its chain are checked; whether it may happen there is not known here."""

    def newer(line: bytes) -> bytes:
        told = restated(line, lambda stored: stored.replace(b"started.v1", b"started.v9"))
        return edited(told, type="run.started.v9")

    bundle.change(EVENTS, lambda lines: rechained(at(3, newer)(lines)), forged=True)
    bundle.change(RUNS, at(0, lambda line: edited(line, lastHash=hash_in(bundle, 7))), forged=True)
    bundle.recount()
    code, words = verified(bundle)
    assert (code, ": unknown: " in words) == (2, True), words


def hash_in(bundle: Bundle, place: int) -> str:
    found: str = json.loads(bundle.lines(EVENTS)[place])["sha256"]
    return found


@pytest.mark.parametrize("what", ["a whole run", "the end of a run", "a history of somebody's own"])
def test_what_a_bundle_alone_cannot_show_is_shown_by_the_manifests_hash(
    whole: Bundle, bundle: Bundle, what: str
) -> None:
    """Who can write the manifest can leave out a run, or its end, or make up another history that
    could have happened: the hash that the export printed tells, if it is kept elsewhere.
    """
    first = bundle.objects("runs")[0]
    size = first["events"]
    if what == "a whole run":
        bundle.change(EVENTS, lambda lines: lines[size:], forged=True)
        bundle.change(CONTENT, lambda lines: lines[2:], forged=True)
        bundle.change(RUNS, lambda lines: lines[1:], forged=True)
    elif what == "the end of a run":
        bundle.change(EVENTS, without(size - 1), forged=True)
        shorter = {
            "lastVersion": size - 1,
            "events": size - 1,
            "lastHash": hash_in(bundle, size - 2),
        }
        bundle.change(RUNS, at(0, lambda line: edited(line, **shorter)), forged=True)
    else:
        other = at(1, lambda line: restated(line, lambda stored: stored.replace(b"none", b"nine")))
        bundle.change(EVENTS, lambda lines: rechained(other(lines)), forged=True)
        now = hash_in(bundle, size - 1)
        bundle.change(RUNS, at(0, lambda line: edited(line, lastHash=now)), forged=True)
    bundle.recount()
    code, words = verified(bundle)
    assert (code, "ok: " in words) == (0, True), words
    assert manifest_hash(words) != manifest_hash(verified(whole)[1])


def manifest_hash(words: str) -> str:
    return words.split("manifest: SHA-256 ")[1][:64]


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_byte_of_a_bundle_can_be_changed_unseen(
    whole: Bundle, tmp_path: Path, data: st.DataObject
) -> None:
    """But for the manifest's own: its hash is what to keep."""
    names = sorted(path.name for path in whole.place.iterdir() if path.name != "manifest.json")
    name = data.draw(st.sampled_from(names))
    content = bytearray((whole.place / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    changed = tmp_path / "changed"
    shutil.rmtree(changed, ignore_errors=True)
    bundle = whole.copy(changed)
    (bundle.place / name).write_bytes(content)
    forged = data.draw(st.booleans())
    if forged:
        bundle.forge()
    found = findings(bundle)
    # What is in the sealed content cannot be told without the account's key.
    assert found or (forged and name.startswith("content"))


def findings(bundle: Bundle) -> list[Any]:
    """The check itself, in this process."""
    with scripts_importable():
        check = importlib.import_module("bundle_check.check")
        manifest = importlib.import_module("bundle_check.manifest")
    return list(check.BundleCheck(bundle.place, manifest.read_manifest(bundle.place)).findings())
