"""`scripts/check_invariants.py` on a real log: clean, then broken on purpose."""

import asyncio
import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from runs_domain import commands as c
from runs_domain.audit import Violation
from runs_domain.ids import Attempt
from runs_domain.keys import new_key
from runs_domain.leaks import Leaks
from runs_domain.ports import Job
from runs_domain.settings import Secret
from runs_domain.storage import audit_log, redis_names
from runs_domain.storage.audit_log import LogAudit
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock, new_run_id
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.snapshot import open_snapshot
from tests.support import builders
from tests.support.log_streams import Run
from tests.support.operators import environment_of, run_script
from tests.support.servers import Database, as_owner
from tests.support.views import are_caught_up
from tests.support.waiting import until
from workers.projector import all_projections, project

CLOCK = SystemClock()
CANARY = "canary-of-the-tests äö"


@pytest.fixture
async def runs(log: PostgresEventLog, database: Database) -> list[Run]:
    """Three that have ended, their views caught up."""
    runs = [Run(log) for _ in range(3)]
    await runs[0].finish("one")
    await runs[1].start()
    await runs[1].do(builders.tool_step(runs[1].stream.state, 2))
    await runs[1].do(c.RequestCancel(by="client", why="test"))
    await runs[1].do(c.CancelRun(attempt=Attempt(1)), c.RecordSandboxReleased(found=False))
    await runs[2].finish("three")
    projections = all_projections(Secret(database.url), log.data_keys)
    reader = ReconnectingConnection(Secret(database.url), name="reader")
    projecting = asyncio.create_task(project(projections, CLOCK, CLOCK.sleep))
    try:
        await until(lambda: are_caught_up(reader))
    finally:
        projecting.cancel()
        await asyncio.wait({projecting})
        await reader.close()
    return runs


@pytest.fixture
def check(database: Database, redis_url: str) -> Callable[..., tuple[int, str]]:
    environment = environment_of(database, redis_url)

    def run(*arguments: str, **changes: str) -> tuple[int, str]:
        done = run_script("check_invariants.py", *arguments, env=environment | changes)
        return done.returncode, done.stdout + done.stderr

    return run


async def violations(database: Database, log: PostgresEventLog, **options: Any) -> list[Violation]:
    async with open_snapshot(Secret(database.url), name="test") as snapshot:
        audit = LogAudit(snapshot, log.data_keys, Leaks("recoup_sk_"), **options)
        return [one async for one in audit.violations()]


@pytest.mark.usefixtures("runs")
async def test_a_clean_log_is_told_so_in_words_and_in_json(check: Any, tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("nothing to see")
    said = ("--at-rest", "--canary", CANARY, "--logs", str(tmp_path))
    code, words = check(*said)
    assert code == 0, words
    assert words.startswith("3 runs, ")
    assert ", 1 log file searched\n" in words
    code, answer = check("--json", *said)
    found = json.loads(answer)
    assert found["logFiles"] == 1
    assert (code, found["ok"], found["runs"]) == (0, True, 3)
    assert [one["invariant"] for one in found["invariants"]] == [
        *("chain", "1", "2", "3", "4", "5", "6", "7", "8", "10")
    ]


async def test_a_broken_log_is_told_by_run_rule_and_exit_code(
    check: Any, runs: list[Run], database: Database
) -> None:
    as_owner(database, "UPDATE run_heads SET status = 'failed' WHERE run_id = %s", runs[0].run_id)
    code, words = check()
    assert code == 1
    assert "8  1 VIOLATION  " in words
    as_owner(database, "UPDATE run_heads SET status = 'failed' WHERE run_id = %s", runs[2].run_id)
    assert "8  2 VIOLATIONS  " in check()[1]
    as_owner(
        database, "UPDATE run_heads SET status = 'completed' WHERE run_id = %s", runs[2].run_id
    )
    assert f"run {runs[0].run_id}: its head is not the fold: status" in words
    code, answer = check("--json", "--account", str(runs[0].account_id))
    found = json.loads(answer)
    assert (code, found["ok"], found["runs"]) == (1, False, 1)
    assert check("--account", str(runs[2].account_id))[0] == 0


async def test_a_database_that_cannot_be_asked_is_no_clean_log(check: Any) -> None:
    away = "postgresql://nobody:canary-password@127.0.0.1:1/none"
    code, words = check(RUNLEDGER_DATABASE_URL=away)
    assert code == 2
    assert words == (
        "check_invariants: could not look: PostgreSQL cannot be reached (connection refused):"
        " look at RUNLEDGER_DATABASE_URL\n"
    )
    code, words = check(RUNLEDGER_DATABASE_URL="postgresql://nobody@/x?host=/nowhere")
    assert (code, "could not look" in words) == (2, True)
    code, words = check("--canary", CANARY, RUNLEDGER_REDIS_URL="redis://127.0.0.1:1/0")
    assert (code, "Redis cannot be reached" in words) == (2, True)
    assert "look at RUNLEDGER_REDIS_URL" in words
    code, words = check(RUNLEDGER_SECRET="short")  # noqa: S106 - not one
    assert (code, "RUNLEDGER_SECRET" in words) == (2, True)
    code, words = check("--canary", "short")
    assert (code, "at least 8" in words) == (2, True)


@pytest.mark.usefixtures("runs")
async def test_another_server_secret_is_no_clean_log(check: Any) -> None:
    code, words = check(RUNLEDGER_SECRET="x" * 40)
    assert (code, "could not look" in words) == (2, True)


async def test_a_run_under_way_is_fine_but_not_at_rest(check: Any, log: PostgresEventLog) -> None:
    await Run(log).start()
    assert check()[0] == 0
    code, words = check("--at-rest")
    assert code == 1
    assert "it never ended; the last event is run.started.v1" in words


@pytest.mark.parametrize("page", [1, 2, 5])
async def test_pages_of_the_log_may_end_anywhere(
    runs: list[Run],
    database: Database,
    log: PostgresEventLog,
    monkeypatch: pytest.MonkeyPatch,
    page: int,
) -> None:
    monkeypatch.setattr(audit_log, "PAGE_EVENTS_MAX", page)
    assert await violations(database, log, at_rest=True) == []
    as_owner(database, "UPDATE run_heads SET open = true")
    found = await violations(database, log, at_rest=True)
    assert {one.run_id for one in found} == {run.run_id for run in runs}
    assert {one.rule for one in found} == {"8"}


@pytest.mark.usefixtures("runs")
async def test_an_event_larger_than_a_page_is_a_page(
    database: Database, log: PostgresEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "PAGE_BYTES_MAX", 1)
    assert await violations(database, log, at_rest=True) == []


@pytest.mark.parametrize(
    "change",  # the statement, the rule it breaks, what is said about it
    [
        ("UPDATE stored_events SET state = state || ' ' WHERE originator_version = 2", "chain", ""),
        ("UPDATE stored_events SET state = 'x' WHERE originator_version = 2", "10", "version 2"),
        ("UPDATE stored_events SET state = NULL WHERE originator_version = 2", "10", "version 2"),
        (
            "UPDATE stored_events SET topic = 'run.of_tomorrow.v9' WHERE originator_version = 2",
            "10",
            "version 2",
        ),
        ("DELETE FROM stored_events WHERE originator_version = 3", "chain", "version 4 follows"),
        ("DELETE FROM run_heads", "8", "no head"),
        ("DELETE FROM api_keys", "5", "0 keys"),
        ("UPDATE api_keys SET revoked_at = NULL", "5", "still good"),
        ("UPDATE runs SET status = 'queued'", "8", "in view runs"),
        ("DELETE FROM messages WHERE place = 1", "8", "no row 1"),
        ("UPDATE messages SET sealed = 'x'", "8", "cannot be opened"),
        ("DELETE FROM sandboxes", "8", "in view sandboxes"),
        ("UPDATE sandboxes SET pushed = true", "8", "in view sandboxes"),
        (
            (
                "INSERT INTO credits"
                " SELECT run_id, 1, account_id, 1, now(), 'settled', 0, 9 FROM runs"
            ),
            "8",
            "the entry of version 1 in view credits",
        ),
        ("UPDATE messages SET version = version + 1", "8", "cannot be opened"),
        (
            "UPDATE checkpoints SET stopped_position = 1, stopped_error = 'x', stopped_at = now()",
            "8",
            "stands still",
        ),
        ("DELETE FROM stored_events", "8", "the log has no event"),
        ("DELETE FROM stored_events", "5", "the log has no event"),
        ("UPDATE runs SET error_code = 'tries_exhausted'", "1", "no dead letter"),
    ],
)
@pytest.mark.usefixtures("runs")
async def test_whatever_was_changed_behind_the_systems_back_is_found(
    database: Database, log: PostgresEventLog, change: tuple[str, str, str]
) -> None:
    sql, rule, says = change
    as_owner(database, sql)
    found = await violations(database, log)
    assert any(one.rule == rule and says in one.sentence for one in found), found


@pytest.mark.usefixtures("runs")
async def test_a_projector_that_is_behind_breaks_nothing(
    database: Database, log: PostgresEventLog
) -> None:
    await Run(log).finish("later")
    assert await violations(database, log, at_rest=True) == []


async def test_an_erased_account_breaks_nothing(
    runs: list[Run], database: Database, log: PostgresEventLog
) -> None:
    erase = (
        "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = now() WHERE account_id = %s"
    )
    as_owner(database, erase, runs[1].account_id)
    log.data_keys.forget(runs[1].account_id)
    assert await violations(database, log, at_rest=True) == []


@pytest.mark.usefixtures("runs")
async def test_invariant_6_a_canary_and_a_key_in_clear_are_found_wherever_they_stand(
    check: Any, database: Database, redis_url: str, tmp_path: Path
) -> None:
    key = new_key("recoup_sk_", bytes(24))
    places = {
        "in runs": lambda: as_owner(database, "UPDATE runs SET error_message = %s", CANARY),
        "jobs: a canary stands in clear in a job": lambda: _send(redis_url, CANARY),
        f"logs: a canary stands in clear in {tmp_path}/worker.log": lambda: (
            tmp_path / "worker.log"
        ).write_text("x" * (1024 * 1024 - 5) + json.dumps(CANARY)),
        f"logs: an API key stands in clear in {tmp_path}/api.log": lambda: (
            tmp_path / "api.log"
        ).write_text(key),
    }
    for put in places.values():
        put()
    code, words = check("--canary", CANARY, "--logs", str(tmp_path))
    assert code == 1
    for place in places:
        assert place in words
    assert "run None" not in words
    assert "canary-of" not in words
    assert key not in words


@pytest.mark.parametrize("name", ["api.log.1.gz", "old/api.log"])
@pytest.mark.usefixtures("runs")
def test_invariant_6_a_key_in_a_packed_log_or_in_one_that_is_named_itself_is_found(
    check: Any, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(new_key("recoup_sk_", bytes(24)).encode()))
    for place in (path, tmp_path):
        code, words = check("--logs", str(place))
        assert code == 1, words
        assert f"       logs: an API key stands in clear in {path}\n" in words
        assert ", 1 log file searched\n" in words


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (gzip.compress(b"x" * 1000)[:-9], "EOFError"),
        (bz2.compress(b"x"), "it is packed with bzip2"),
    ],
    ids=["cut short", "packed otherwise"],
)
def test_a_log_that_cannot_be_searched_is_named_and_no_clean_log(
    check: Any, tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "worker.log"
    path.write_bytes(content)
    code, words = check("--logs", str(tmp_path))
    assert code == 2
    assert ", 0 log files searched\n" in words
    assert f"check_invariants: not searched: {path}: {why}\n" in words


@pytest.mark.usefixtures("runs")
def test_where_nothing_was_looked_at_nothing_is_ok(check: Any, tmp_path: Path) -> None:
    stranger, nowhere = str(new_run_id()), str(tmp_path / "nowhere")
    for arguments, sentence in (
        (("--account", stranger), f"could not look: no run of that account: {stranger}"),
        (("--logs", nowhere), f"there is no {nowhere}"),
        (("--logs", str(tmp_path)), f"could not look: no file in {tmp_path}"),
        (("--show", "-1"), "--show: it takes 0 or more"),
        (("--query-seconds", "0"), "--query-seconds: it takes more than 0 seconds"),
    ):
        code, words = check(*arguments)
        assert (code, sentence in words) == (2, True), words
        assert "  ok  " not in words


async def test_invariant_6_a_key_in_an_event_is_found(
    runs: list[Run], database: Database, log: PostgresEventLog
) -> None:
    key = new_key("recoup_sk_", bytes(24)).encode()
    as_owner(
        database, "UPDATE stored_events SET state = state || %s WHERE originator_version = 1", key
    )
    found = await violations(database, log)
    assert sum(one.rule == "6" for one in found) == len(runs)


def _send(url: str, text: str) -> None:
    job = Job(kind="run", id=str(builders.RUN), account_id=text)
    with redis.Redis.from_url(url, socket_timeout=5.0) as client:
        client.xadd(redis_names.JOB_STREAM, {"kind": job.kind, "account": job.account_id})
