"""`scripts/verify_views.py` and a rebuild's dry run: whatever is not the fold is found and told."""

import json
from typing import Any

import pytest

from runs_domain.storage import run_streams, view_compare
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.view_check import Checked
from runs_domain.storage.view_compare import Counts
from tests.support.log_streams import Run
from tests.support.rebuilds import (
    REBUILD,
    VERIFY,
    VIEWS,
    assert_right,
    check_here,
    found_here,
    left_behind,
    projected,
    rebuilt,
    run,
    some_runs,
)
from tests.support.servers import Database, as_owner

CANARY = "canary-of-the-tests"


@pytest.fixture
async def runs(database: Database, log: PostgresEventLog) -> list[Run]:
    runs = await some_runs(log, 6)
    await projected(database, log)
    return sorted(runs, key=lambda one: one.run_id)


def only(checked: dict[str, Checked], view: str) -> Checked:
    """The view, which alone is not right."""
    wrong = [name for name, one in checked.items() if not one.is_right]
    assert wrong == [view]
    return checked[view]


@pytest.mark.usefixtures("runs")
async def test_invariant_8_views_that_the_projector_made_are_right(database: Database) -> None:
    checked = await check_here(database)
    assert {name: one.counts.differing for name, one in checked.items()} == dict.fromkeys(
        ("runs", "messages", "credits", "sandboxes"), 0
    )
    assert all(one.counts.same for one in checked.values())


@pytest.mark.parametrize(
    ("sql", "view", "counts"),
    [
        ("UPDATE runs SET status = 'queued' WHERE run_id = %s", "runs", {"changed": 1}),
        ("UPDATE runs SET usage = '{}' WHERE run_id = %s", "runs", {"changed": 1}),
        ("DELETE FROM runs WHERE run_id = %s", "runs", {"missing": 1}),
        ("UPDATE runs SET run_id = gen_random_uuid() WHERE run_id = %s", "runs",
         {"missing": 1, "extra": 1}),
        ("UPDATE messages SET sealed = 'x' WHERE run_id = %s AND place = 0", "messages",
         {"changed": 1}),
        ("UPDATE messages SET account_id = gen_random_uuid() WHERE run_id = %s AND place = 0",
         "messages", {"changed": 1}),
        (("INSERT INTO messages SELECT run_id, 9, role, gen_random_uuid(), chat_id, session_id,"
         " requested_position, created_at, version, complete, sealed FROM messages"
         " WHERE run_id = %s AND place = 0"), "messages", {"extra": 1}),
        ("UPDATE messages SET place = place + 5 WHERE run_id = %s", "messages",
         {"missing": 2, "extra": 2}),
        ("UPDATE sandboxes SET released_at = NULL, state = 'open' WHERE run_id = %s", "sandboxes",
         {"changed": 1}),
        (("INSERT INTO credits SELECT run_id, 99, account_id, requested_position, created_at,"
         " 'settled', 0, 1 FROM runs WHERE run_id = %s"), "credits", {"extra": 1}),
    ],
)  # fmt: skip
async def test_a_row_that_was_changed_deleted_or_added_by_hand_is_found(
    database: Database, runs: list[Run], sql: str, view: str, counts: dict[str, int]
) -> None:
    (before,) = {(await check_here(database, view))[view].counts}
    ended = next(run for run in runs if run.stream.state.sandbox_released)
    as_owner(database, sql, ended.run_id)
    checked = only(await check_here(database), view)
    after = checked.counts
    told = {name: getattr(after, name) for name in Counts.__struct_fields__ if name != "same"}
    assert {name: count for name, count in told.items() if count} == counts
    assert after.same == before.same - counts.get("changed", 0) - counts.get("missing", 0)
    assert {one.kind for one in checked.differences} == counts.keys()


async def test_a_moved_message_row_is_no_row_of_its_account(
    database: Database, runs: list[Run]
) -> None:
    """Sealed under another account's key it cannot be opened: it is told, and nothing of it."""
    first, other = runs[0], runs[1]
    move = "UPDATE messages SET account_id = %s WHERE run_id = %s AND place = 0"
    as_owner(database, move, other.account_id, first.run_id)
    view = only(await check_here(database), "messages")
    (one,) = view.differences
    assert (one.kind, one.key) == ("changed", (str(first.run_id), "0"))
    assert one.columns["sealed"][0] == "cannot be opened"
    assert one.columns["account_id"] == (str(other.account_id), str(first.account_id))


async def test_memory_bounds_change_nothing_of_what_is_found(
    database: Database, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_streams, "BATCH_EVENTS_MAX", 1)
    monkeypatch.setattr(view_compare, "ROWS_AT_ONCE", 1)
    as_owner(database, "DELETE FROM stored_events WHERE originator_id = %s", runs[-1].run_id)
    as_owner(database, "DELETE FROM stored_events WHERE originator_id = %s", runs[0].run_id)
    checked = await check_here(database)
    assert {name: one.counts.extra for name, one in checked.items() if name != "credits"} == {
        "runs": 2,
        "messages": 4,
        "sandboxes": 2,
    }
    assert {one.counts.missing for one in checked.values()} == {0}


async def test_a_run_that_cannot_be_read_is_told_and_the_others_are_looked_at(
    database: Database, runs: list[Run]
) -> None:
    spoil = (
        "UPDATE stored_events SET state = 'x' WHERE originator_id = %s AND originator_version = 3"
    )
    as_owner(database, spoil, runs[2].run_id)
    as_owner(database, "UPDATE runs SET status = 'queued' WHERE run_id = %s", runs[4].run_id)
    found = await found_here(database, "runs")
    (fault,) = found.faults
    assert f"event 3 of run {runs[2].run_id} at position " in fault
    (view,) = found.views
    assert (view.counts.changed, view.counts.extra, view.counts.same) == (1, 0, 4)
    assert not found.is_right

    cut = "DELETE FROM stored_events WHERE originator_id = %s AND originator_version = 2"
    as_owner(database, cut, runs[3].run_id)
    found = await found_here(database, "runs")
    assert f"view runs cannot take event 3 of run {runs[3].run_id} at" in " ".join(found.faults)


@pytest.mark.parametrize("place", [0, 3, 5])
async def test_rows_of_a_run_whose_content_cannot_be_opened_are_left_out_wherever_it_stands(
    database: Database, runs: list[Run], place: int
) -> None:
    spoil = (
        "UPDATE stored_events SET state = convert_to(regexp_replace(convert_from(state, 'UTF8'),"
        """ '"sealed":"....', '"sealed":"AAAA'), 'UTF8')"""
        " WHERE originator_id = %s AND originator_version = 1"
    )
    as_owner(database, spoil, runs[place].run_id)
    found = await found_here(database)
    assert found.faults_count == 1
    assert str(runs[place].run_id) in found.faults[0]
    assert {view.name: view.counts.differing for view in found.views} == dict.fromkeys(VIEWS, 0)


@pytest.mark.usefixtures("runs")
async def test_a_projector_that_is_behind_breaks_nothing_and_the_rest_is_tried_too(
    database: Database, log: PostgresEventLog
) -> None:
    late = Run(log)
    await late.finish("later")
    await assert_right(database)
    rename = "UPDATE stored_events SET topic = 'run.x.v9' WHERE originator_id = %s"
    as_owner(database, rename, late.run_id)
    await assert_right(database)
    (fault,) = (await found_here(database, "runs", to_the_end=True)).faults
    assert "(run.x.v9)" in fault


@pytest.mark.usefixtures("runs")
async def test_more_differences_than_the_limit_are_counted_and_not_told(
    database: Database,
) -> None:
    as_owner(database, "UPDATE runs SET model = 'other'")
    view = only(await check_here(database, limit=2), "runs")
    assert (view.counts.changed, len(view.differences)) == (6, 2)
    keys = [one.key for one in view.differences]
    assert keys == sorted(keys)
    _, out, _ = run(database, VERIFY, "runs", "--limit", "2")
    assert "… and 4 more" in out
    assert "model: other → scripted/echo" in out


async def test_a_dry_run_tells_what_would_change_no_content_and_leaves_nothing(
    database: Database, log: PostgresEventLog
) -> None:
    one = Run(log)
    await one.finish(CANARY)
    await projected(database, log)
    code, out, _ = run(database, REBUILD, "--dry-run")
    assert (code, "WOULD CHANGE" in out) == (0, False)

    as_owner(database, "UPDATE runs SET status = 'failed', error_code = 'internal'")
    as_owner(
        database,
        "UPDATE messages AS one SET sealed = other.sealed FROM messages AS other"
        " WHERE one.place = 1 AND other.place = 0",
    )
    before = as_owner(database, "SELECT runs::text FROM runs")
    code, out, err = run(database, REBUILD, "--dry-run")
    told, _, _ = run(database, REBUILD, "--dry-run", "--json")

    assert (code, told) == (1, 1)
    assert "runs       WOULD CHANGE" in out
    assert f"changed  {one.run_id}" in out
    assert "status: failed → completed" in out
    assert "error_code: internal → nothing" in out
    assert "message differs: cannot be opened → sha256:" in out
    assert CANARY not in out + err
    assert as_owner(database, "SELECT runs::text FROM runs") == before
    assert left_behind(database) == []
    rebuilt(database)
    assert run(database, VERIFY)[0] == 0


@pytest.mark.usefixtures("runs")
async def test_a_view_that_stands_still_or_is_beyond_the_log_is_told(database: Database) -> None:
    as_owner(
        database,
        "UPDATE checkpoints SET stopped_position = 7, stopped_error = 'event 3 of run x', "
        "stopped_at = now() WHERE name = 'runs'",
    )
    as_owner(database, "UPDATE checkpoints SET position = 1000 WHERE name = 'credits'")
    code, out, _ = run(database, VERIFY)
    assert code == 1
    assert "it stands still before position 7 since " in out
    assert "event 3 of run x" in out
    assert "its checkpoint is beyond the log's end, which is " in out
    code, answer, _ = run(database, VERIFY, "--json", "sandboxes", "runs")
    said: dict[str, Any] = json.loads(answer)
    assert (code, said["ok"]) == (1, False)
    assert [view["name"] for view in said["views"]] == ["runs", "sandboxes"]
    assert said["views"][0]["stoppedPosition"] == 7


def test_a_check_that_could_not_look_says_so(database: Database) -> None:
    cases = [
        (("rums",), {}, "there is no view rums; there are runs"),
        (("--limit", "-1"), {}, "--limit"),
        ((), {"RUNLEDGER_SECRET": "short"}, "RUNLEDGER_SECRET"),
        ((), {"RUNLEDGER_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}, "look at RUNLEDGER_DATA"),
    ]
    for arguments, changes, says in cases:
        code, out, err = run(database, VERIFY, *arguments, **changes)
        assert (code, out) == (2, ""), err
        assert says in err
        assert "Traceback" not in err
