"""`scripts/export_history.py` on a real log: what a bundle holds, spans, refusals."""

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.export_reads import AccountEvents
from runs_domain.storage.export_span import pin
from runs_domain.storage.identity import SystemClock, new_account_id
from runs_domain.storage.postgres_log import open_log
from tests.support.bundles import Bundle, bytes_in, export, exported, verified
from tests.support.log_streams import SECRETS
from tests.support.servers import as_owner
from tests.support.some_history import SomeHistory, append_some, some_history
from tests.support.waiting import until
from workers.stack.servers import Servers

TICK = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def history(servers: Servers) -> Iterator[SomeHistory]:
    """Tests leave it as it is."""
    with some_history(servers) as made:
        yield made


@pytest.fixture
def own(servers: Servers) -> Iterator[SomeHistory]:
    """To break."""
    with some_history(servers) as made:
        yield made


# ------------------------------------------------------------------------------ what it holds


@pytest.fixture(scope="module")
def whole(history: SomeHistory, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("bundles") / "new" / "whole"
    return exported(history.database, history.account, place, "--unsealed")


def test_a_bundle_holds_every_stored_byte_of_the_account_and_of_nobody_else(
    whole: Bundle, history: SomeHistory
) -> None:
    events = whole.objects("events")
    stored = {event["id"]: base64.b64decode(event["data_base64"]) for event in events}
    assert stored == history.states()
    positions = {f"{run}/{version}": position for run, version, position, _ in history.rows()}
    assert {event["id"]: int(event["logposition"]) for event in events} == positions


def test_its_lines_are_cloudevents(whole: Bundle) -> None:
    """The rules of CloudEvents 1.0 and of its JSON format, as far as they bind a producer."""
    seen = set()
    for event in whole.objects("events"):
        assert event["specversion"] == "1.0"
        for name in ("id", "source", "type", "subject", "runid", "logposition", "sha256"):
            assert isinstance(event[name], str)
            assert event[name]
        assert re.fullmatch(r"/[A-Za-z0-9/-]+", event["source"])  # a URI-reference
        assert datetime.fromisoformat(event["time"]).tzinfo is not None
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["time"])
        assert event["datacontenttype"] == "application/json"
        assert "data" not in event  # not beside data_base64
        assert -(2**31) <= event["runversion"] < 2**31  # CloudEvents' Integer
        for name in event.keys() - {"data_base64"}:
            assert re.fullmatch(r"[a-z0-9]{1,20}", name)
        stored = base64.b64decode(event["data_base64"], validate=True)
        said = json.loads(stored)
        assert event["sha256"] == hashlib.sha256(stored).hexdigest()
        assert (event["type"], event["time"]) == (said["type"], said["at"])
        assert (event["runid"], event["runversion"]) == (said["runId"], said["version"])
        seen.add((event["source"], event["id"]))
    assert len(seen) == len(whole.objects("events"))


def test_runs_and_manifest_sum_up_the_events(whole: Bundle, history: SomeHistory) -> None:
    events = whole.objects("events")
    runs = whole.objects("runs")
    assert [run["runId"] for run in runs] == [str(run) for run in history.runs]
    assert [run["ended"] for run in runs] == [True, True, True, False]
    for run in runs:
        own = [event for event in events if event["runid"] == run["runId"]]
        assert [event["runversion"] for event in own] == list(range(1, len(own) + 1))
        assert (run["firstVersion"], run["lastVersion"], run["events"]) == (1, len(own), len(own))
        assert run["anchor"] == hashlib.sha256(run["runId"].encode()).hexdigest()
        assert run["lastHash"] == own[-1]["sha256"]
        assert run["requestedPosition"] == int(own[0]["logposition"])
    manifest = whole.manifest
    assert manifest["account"] == str(history.account)
    counts = manifest["counts"]
    assert (counts["runs"], counts["ended"], counts["begunBefore"]) == (4, 3, 0)
    assert (counts["events"], sum(counts["byType"].values())) == (len(events), len(events))
    assert manifest["searchedForLostHeads"] is True
    for file in manifest["files"]:
        content = (whole.place / file["name"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert (file["bytes"], file["lines"]) == (len(content), content.count(b"\n"))


def test_readable_content_is_beside_and_never_among_the_events(whole: Bundle) -> None:
    content = whole.objects("content")
    events = {
        event["id"]: json.loads(base64.b64decode(event["data_base64"]))
        for event in whole.objects("events")
    }
    assert [one["id"] for one in content] == [
        name for name, event in events.items() if "sealed" in event
    ]
    texts = json.dumps(content, ensure_ascii=False)
    assert "ünïcode \u2028 and more" in texts
    assert "of somebody else" not in texts
    assert "and more" not in json.dumps(list(events.values()))
    for one in content:
        assert events[one["id"]]["data"].items() <= one["data"].items()


def test_without_unsealed_there_is_no_content(history: SomeHistory, tmp_path: Path) -> None:
    bundle = exported(history.database, history.account, tmp_path / "out")
    assert {path.name for path in bundle.place.iterdir()} == {
        *("manifest.json", "runs.ndjson", "events-00001.ndjson")
    }
    assert verified(bundle)[0] == 0


def test_nobody_else_may_look_into_a_bundle(whole: Bundle) -> None:
    assert whole.place.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in whole.place.iterdir()} == {0o600}


def test_what_an_export_says_is_what_is_in_it(history: SomeHistory, tmp_path: Path) -> None:
    done = export(history.database, history.account, tmp_path / "words")
    assert done.returncode == 0
    assert done.stdout.startswith(f"{tmp_path}/words: 4 runs, 30 events\n")
    digest = hashlib.sha256((tmp_path / "words" / "manifest.json").read_bytes()).hexdigest()
    assert f"manifest: SHA-256 {digest}\n" in done.stdout
    said = json.loads(export(history.database, history.account, tmp_path / "j", "--json").stdout)
    assert (
        said["manifestSha256"]
        == hashlib.sha256((tmp_path / "j" / "manifest.json").read_bytes()).hexdigest()
    )
    assert {name: said[name] for name in Bundle(tmp_path / "j").manifest} == Bundle(
        tmp_path / "j"
    ).manifest


# ------------------------------------------------------------------------------ spans


async def test_consecutive_spans_hold_each_event_once_wherever_they_are_cut(
    history: SomeHistory,
) -> None:
    connection = ReconnectingConnection(Secret(history.database.url), name="test")
    times = await asyncio.to_thread(history.times)
    rows = await asyncio.to_thread(history.rows)
    try:
        for cut in [at + shift for at in times for shift in (-TICK, 0 * TICK, TICK)]:
            spans = [
                await pin(connection, None, cut),
                await pin(connection, cut, None),
            ]
            assert spans[0].through == spans[1].after
            halves = []
            for span in spans:
                events = AccountEvents(connection, history.account, span)
                halves.append([row async for page in events.pages() for _, row in page])
                assert events.passed == await events.runs()
            for row in halves[0]:
                assert json.loads(row.state)["at"] < _text(cut)
            for row in halves[1]:
                assert json.loads(row.state)["at"] >= _text(cut)
            found = sorted(row.position for half in halves for row in half)
            assert found == [position for _, _, position, _ in rows]
    finally:
        await connection.close()


async def test_a_span_until_now_waits_for_the_append_that_is_under_way(
    history: SomeHistory,
) -> None:
    """It has its time already, and would be missing from this span and from the next."""
    connection = ReconnectingConnection(Secret(history.database.url), name="test")
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    append = await psycopg.AsyncConnection.connect(history.database.admin_url)
    looker = await psycopg.AsyncConnection.connect(history.database.admin_url, autocommit=True)

    async def waiting() -> bool:
        return bool((await (await looker.execute(waits)).fetchone() or (0,))[0])

    try:
        # As `append_batch` begins.
        await append.execute("SELECT pg_advisory_xact_lock(125848689340263)")
        pinned = asyncio.create_task(pin(connection, None, None))
        await until(waiting)
        assert not pinned.done()
        await append.rollback()
        assert (await pinned).since is None
    finally:
        await append.close()
        await looker.close()
        await connection.close()


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_chain_of_bundles_is_checked_from_one_to_the_next(
    history: SomeHistory, tmp_path: Path
) -> None:
    times = history.times()
    cuts = [None, times[3], times[6], times[8], None]
    bundles: list[Bundle] = []
    for number in range(4):
        since, until = cuts[number], cuts[number + 1]
        span = [
            *(["--since", _text(since)] if since else []),
            *(["--until", _text(until)] if until else []),
        ]
        place = tmp_path / str(number)
        bundles.append(exported(history.database, history.account, place, *span))
        earlier = ["--after", str(tmp_path / str(number - 1))] if number else []
        code, words = verified(bundles[-1], *earlier)
        assert code == 0, words
        if number:
            begun = bundles[-1].manifest["counts"]["begunBefore"]
            assert begun > 0
            runs = f"{begun} run{'s' if begun > 1 else ''}"
            assert f"{runs} began before the span: their anchors are given\n" in words
            told = json.loads(verified(bundles[-1], *earlier, "--json")[1])
            assert told["joined"] > 0
            assert told["joined"] + told["unseen"] == begun
    ids = [event["id"] for bundle in bundles for event in bundle.objects("events")]
    assert sorted(ids) == sorted(history.states())
    code, words = verified(bundles[2], "--after", str(bundles[0].place))
    assert (code, "the earlier bundle ends at position" in words) == (1, True)


def test_a_history_that_was_written_anew_between_two_bundles_is_found(
    own: SomeHistory, tmp_path: Path
) -> None:
    """Each is sound by itself; the anchor is not what the earlier one ended with."""
    cut = own.times()[3]
    first = exported(own.database, own.account, tmp_path / "1", "--until", _text(cut))
    second = exported(own.database, own.account, tmp_path / "2", "--since", _text(cut))
    name = "runs.ndjson"
    changed = first.lines(name)
    whose = {run["runId"] for run in second.objects("runs") if run["firstVersion"] > 1}
    place = next(i for i, line in enumerate(changed) if json.loads(line)["runId"] in whose)
    other = json.loads(changed[place]) | {"lastHash": "0" * 64}
    changed[place] = json.dumps(other).encode() + b"\n"
    first.change(name, lambda _: changed, forged=True)
    code, words = verified(second, "--after", str(first.place))
    assert (
        code,
        f"run {other['runId']}, version {other['lastVersion'] + 1}: chain: " in words,
    ) == (1, True)


def test_a_run_cannot_be_hidden_from_the_bundle_that_it_goes_on_from(
    own: SomeHistory, tmp_path: Path
) -> None:
    """Under another request's position nothing there is found to hold its anchor against."""
    cut = own.times()[8]
    first = exported(own.database, own.account, tmp_path / "1", "--until", _text(cut))
    second = exported(own.database, own.account, tmp_path / "2", "--since", _text(cut))
    runs = second.objects("runs")
    begun = [place for place, run in enumerate(runs) if run["firstVersion"] > 1]
    runs[begun[-1]]["requestedPosition"] += 1
    assert runs[begun[-1]]["requestedPosition"] <= second.manifest["window"]["after"]
    lines = [json.dumps(run).encode() + b"\n" for run in runs]
    second.change("runs.ndjson", lambda _: lines, forged=True)
    assert verified(second)[0] == 0
    code, words = verified(second, "--after", str(first.place))
    says = "is of a run that the earlier bundle should have, and has not\n"
    assert (code, words.count(says)) == (1, 1), words


def test_a_run_that_goes_on_was_not_requested_in_the_span(own: SomeHistory, tmp_path: Path) -> None:
    """Its line is all that says where: what begins in the span begins with its request."""
    bundle = exported(own.database, own.account, tmp_path / "1", "--since", _text(own.times()[3]))
    runs = bundle.objects("runs")
    begun = [place for place, run in enumerate(runs) if run["firstVersion"] > 1]
    runs[begun[-1]]["requestedPosition"] = bundle.manifest["window"]["after"] + 1
    lines = [json.dumps(run).encode() + b"\n" for run in runs]
    bundle.change("runs.ndjson", lambda _: lines, forged=True)
    code, words = verified(bundle)
    says = "is of a run whose line says that it was requested in this span\n"
    assert (code, says in words) == (1, True), words


def test_a_span_without_events_is_an_empty_bundle(history: SomeHistory, tmp_path: Path) -> None:
    before = _text(history.times()[0])
    bundle = exported(history.database, history.account, tmp_path / "1", "--until", before)
    assert {path.name for path in bundle.place.iterdir()} == {"manifest.json", "runs.ndjson"}
    code, words = verified(bundle)
    assert (code, words.startswith("0 runs, 0 events of account")) == (0, True), words


async def test_an_export_of_now_is_gone_on_with_by_the_next(
    own: SomeHistory, tmp_path: Path
) -> None:
    first = await asyncio.to_thread(exported, own.database, own.account, tmp_path / "1")
    async with open_log(Secret(own.database.url), SECRETS, SystemClock()) as log:
        later = await append_some(log, own.account)
    until = first.manifest["window"]["until"]
    second = await asyncio.to_thread(
        exported, own.database, own.account, tmp_path / "2", "--since", until
    )
    assert {event["runid"] for event in second.objects("events")} == {str(later.run_id)}
    code, words = await asyncio.to_thread(verified, second, "--after", str(first.place))
    assert code == 0, words


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--since", "2026-01-01T00:00:00"), "a time needs its offset, or Z for UTC"),
        (("--since", "2026-01-01"), "a time needs its offset, or Z for UTC"),
        (("--until", "yesterday"), "a time is like 2026-01-31T12:00:00Z"),
        (("--until", "0001-01-01T00:00:00+14:00"), "that time is out of reach"),
        (("--since", "9999-12-31T00:00:00Z"), "--since must lie before --until"),
        (("--until", "9999-12-31T00:00:00Z"), "--until lies in the future"),
        (
            ("--since", "2026-01-01T01:00:00+01:00", "--until", "2026-01-01T00:00:00Z"),
            "--since must lie before --until",
        ),
        (("--account", "x"), "argument --account: invalid UUID value: 'x'"),
        (("--account", "00000000-0000-7000-8000-000000000001"), "no such account: 00000000-"),
    ],
)
def test_bad_arguments_are_told_and_nothing_is_made(
    history: SomeHistory, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = export(history.database, history.account, tmp_path / "out", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_account_without_runs_is_an_empty_bundle(own: SomeHistory, tmp_path: Path) -> None:
    account = new_account_id()
    as_owner(own.database, "INSERT INTO accounts VALUES (%s, 'person', 'Ada')", account)
    bundle = exported(own.database, account, tmp_path / "out", "--unsealed")
    assert bundle.manifest["counts"]["events"] == 0
    assert verified(bundle)[0] == 0


def test_another_server_secret_is_refused_before_anything_is_made(
    history: SomeHistory, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    other = {"RUNLEDGER_SECRET": "another server secret, also long enough"}
    done = export(history.database, history.account, out, "--unsealed", **other)
    assert (done.returncode, out.exists()) == (2, False)
    assert "RUNLEDGER_SECRET is not the one this database was sealed with" in done.stderr
    assert export(history.database, history.account, out, **other).returncode == 0


def test_a_database_that_is_away_is_told(history: SomeHistory, tmp_path: Path) -> None:
    away = "postgresql://nobody:canary-password@127.0.0.1:1/none"
    done = export(history.database, history.account, tmp_path / "o", RUNLEDGER_DATABASE_URL=away)
    assert done.returncode == 1
    assert done.stderr == (
        "export_history: PostgreSQL cannot be reached (connection refused):"
        " look at RUNLEDGER_DATABASE_URL\n"
    )


def test_a_directory_with_other_things_is_left_alone(history: SomeHistory, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = export(history.database, history.account, tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path} holds other things ('notes.txt'): name a new directory" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "notes.txt").rename(tmp_path / "events-00001.ndjson")
    done = export(history.database, history.account, tmp_path)
    assert (done.returncode, "holds parts of something" in done.stderr) == (1, True)
    assert (tmp_path / "events-00001.ndjson").read_text() == "mine"
    done = export(history.database, history.account, tmp_path / "events-00001.ndjson")
    assert (done.returncode, "events-00001.ndjson: File exists" in done.stderr) == (1, True)


def test_two_exports_at_once_into_one_directory_are_one(
    history: SomeHistory, tmp_path: Path
) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_SH)  # even beside the mildest lock
        done = export(history.database, history.account, tmp_path)
        assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
        assert f"another export writes to {tmp_path} now" in done.stderr
    finally:
        os.close(other)
    assert export(history.database, history.account, tmp_path).returncode == 0


def test_a_finished_bundle_is_not_touched_again(history: SomeHistory, whole: Bundle) -> None:
    before = bytes_in(whole.place)
    done = export(history.database, history.account, whole.place, "--unsealed")
    assert (done.returncode, "was finished before" in done.stderr) == (0, True)
    for account, more, says in (
        (history.account, (), "holds an export with other arguments (--unsealed): give those"),
        (history.other_account, ("--unsealed",), "holds an export of another account"),
    ):
        done = export(history.database, account, whole.place, *more)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert bytes_in(whole.place) == before
