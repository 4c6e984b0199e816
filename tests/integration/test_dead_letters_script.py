"""`scripts/dead_letters.py`, as an operator types it, on a real database and a real queue."""

import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psycopg
import pytest
from redis import Redis

from runs_domain import commands as c
from runs_domain.dead_letters_port import Burial, Reason
from runs_domain.ids import Attempt, retry_run_id
from runs_domain.settings import Secret
from runs_domain.storage import redis_names as names
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.dead_letters import PostgresDeadLetters
from runs_domain.storage.identity import SystemClock, new_run_id
from runs_domain.storage.postgres_log import open_log
from tests.support.builders import user_message
from tests.support.log_streams import SECRET, SECRETS, Run
from tests.support.operators import environment_of, run_script
from tests.support.servers import Database

CANARY = "a canary among the words"


@dataclass
class Done:
    out: str
    err: str


@pytest.fixture
def dead_letters(database: Database, redis_url: str) -> Callable[..., Done]:
    environment = environment_of(database, redis_url)

    def run(*arguments: object, code: int = 0) -> Done:
        done = run_script("dead_letters.py", *map(str, arguments), env=environment)
        assert done.returncode == code, done.stderr
        return Done(done.stdout, done.stderr)

    return run


@pytest.fixture
async def bury(database: Database) -> Callable[[Reason], Awaitable[Run]]:

    async def buried(reason: Reason) -> Run:
        connection = ReconnectingConnection(Secret(database.url), name="test")
        async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
            run = Run(log)
            await run.do(run.request(messages=(user_message(CANARY),)))
            burial = Burial(
                kind="run", id=run.run_id, reason=reason, last_error="KeyError at a.py:7", tries=5
            )
            await PostgresDeadLetters(connection).bury(burial)
            if reason == "tries_exhausted":
                fail = c.FailRun(attempt=Attempt(1), code="tries_exhausted", sentence="5 tries")
                await run.do(fail)
                await run.do(c.RecordSandboxReleased(found=False))
        await connection.close()
        return run

    return buried


def sent(redis_url: str) -> list[bytes]:
    with Redis.from_url(redis_url, socket_timeout=5.0) as client:
        return [fields[b"id"] for _, fields in client.xrange(names.JOB_STREAM)]


async def test_letters_are_listed_and_shown_without_what_people_said(
    dead_letters: Callable[..., Done], bury: Callable[[Reason], Awaitable[Run]]
) -> None:
    dead, broken = await bury("tries_exhausted"), await bury("broken")

    heading, *listed = dead_letters("list").out.splitlines()
    names = ("kind", "id", "reason", "state", "tries", "buried at", "account", "last error")
    for line, run, reason in zip(
        listed, (dead, broken), ("tries_exhausted", "broken"), strict=True
    ):
        cells = {name: line[heading.index(name) :] for name in names if name != "tries"}
        assert cells["kind"].startswith("run ")
        assert cells["id"].startswith(str(run.run_id))
        assert cells["reason"].startswith(reason)
        assert cells["state"].startswith("open")
        assert cells["account"].startswith(str(run.account_id))
        assert cells["last error"] == "KeyError at a.py:7"
        assert line[: heading.index("tries") + len("tries")].endswith(" 5")
    rows = json.loads(dead_letters("list", "--json", "--reason", "broken").out)
    assert [(row["id"], row["withheld"]) for row in rows] == [(str(broken.run_id), True)]

    shown = dead_letters("show", dead.run_id).out
    *_, state, headings, first, second, third, last = shown.splitlines()
    assert state.split()[:4] == ["run:", "failed,", "its", "chat"]
    assert state.endswith(" is free")
    assert headings.split() == ["version", "type", "at", "actor", "attempt"]
    assert [line.split()[:2] for line in (first, second, third)] == [
        ["1", "run.requested.v1"],
        ["2", "run.failed.v1"],
        ["3", "run.sandbox_released.v1"],
    ]
    assert last.split(maxsplit=1) == ["next:", f"retry {dead.run_id}, or drop {dead.run_id}"]
    assert CANARY not in shown
    said = json.loads(dead_letters("show", dead.run_id, "--json", "--content").out)
    assert said["letters"][0]["lastError"] == "KeyError at a.py:7"
    assert CANARY in json.dumps(said["events"][0]["data"])
    assert said["run"]["status"] == "failed"


async def test_a_dead_run_is_retried_once_and_its_new_run_is_named(
    dead_letters: Callable[..., Done], bury: Callable[[Reason], Awaitable[Run]], redis_url: str
) -> None:
    dead = await bury("tries_exhausted")
    again = retry_run_id(dead.run_id)

    assert str(again) in dead_letters("retry", dead.run_id, "--as", "ada").out
    assert str(again) in dead_letters("retry", dead.run_id).out

    assert sent(redis_url) == [str(again).encode()]
    (letter,) = json.loads(dead_letters("list", "--all", "--json").out)
    assert (letter["retriedAs"], letter["closedBy"]) == (str(again), "ops:ada")
    assert dead_letters("list") == Done("", "no open letters\n")
    assert dead_letters("show", dead.run_id).out.endswith("nothing: it was retried\n")
    assert f"is held by run {again}\n" in dead_letters("show", dead.run_id).out


async def test_all_letters_of_a_reason_are_retried_or_dropped_in_one_go(
    dead_letters: Callable[..., Done], bury: Callable[[Reason], Awaitable[Run]], redis_url: str
) -> None:
    dead = [await bury("tries_exhausted") for _ in range(2)]
    broken = [await bury("broken") for _ in range(2)]

    dead_letters("retry", "--all-of-reason", "broken")
    assert sent(redis_url) == [str(run.run_id).encode() for run in broken]
    dead_letters("drop", "--all-of-reason", "tries_exhausted")
    assert dead_letters("list").out == ""
    letters = json.loads(dead_letters("list", "--all", "--json").out)
    assert {row["id"]: row["closedHow"] for row in letters} == {
        **{str(run.run_id): "dropped" for run in dead},
        **{str(run.run_id): "retried" for run in broken},
    }


async def test_what_cannot_be_done_is_said_and_the_rest_is_done(
    dead_letters: Callable[..., Done], bury: Callable[[Reason], Awaitable[Run]], redis_url: str
) -> None:
    broken, stranger = await bury("broken"), new_run_id()

    done = dead_letters("retry", stranger, broken.run_id, code=1)

    assert f"{stranger}: no such dead letter" in done.err
    assert sent(redis_url) == [str(broken.run_id).encode()]
    assert "no such dead letter" in dead_letters("show", stranger, code=1).err
    assert "was retried before" in dead_letters("drop", broken.run_id, code=1).err
    assert "name runs" in dead_letters("drop", code=1).err
    assert "invalid UUID" in dead_letters("show", "not-a-run", code=2).err


async def test_a_run_that_no_release_can_read_is_shown_all_the_same(
    dead_letters: Callable[..., Done],
    bury: Callable[[Reason], Awaitable[Run]],
    database: Database,
) -> None:
    broken = await bury("broken")
    with psycopg.connect(database.admin_url) as admin:
        admin.execute(
            "UPDATE stored_events SET topic = 'run.newer.v9', state = '{}'"
            " WHERE originator_id = %s",
            [broken.run_id],
        )

    assert dead_letters("show", broken.run_id).out.splitlines()[-2].split() == ["1", "run.newer.v9"]
    shown = dead_letters("show", broken.run_id, "--content")
    assert "the content cannot be read: HistoryCorrupt" in shown.err
    dropped = dead_letters("drop", broken.run_id).out
    assert "keeps its chat" in dropped
    assert "withheld" not in dropped
    assert dead_letters("show", broken.run_id).out.endswith(f"nothing, or retry {broken.run_id}\n")


@pytest.mark.parametrize("command", ["list", "show", "retry", "drop"])
def test_a_database_that_is_away_is_told_in_one_sentence_without_its_address(
    command: str, redis_url: str
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "RUNLEDGER_DATABASE_URL": "postgresql://nobody:canary-password@127.0.0.1:1/none",
        "RUNLEDGER_REDIS_URL": redis_url,
        "RUNLEDGER_SECRET": SECRET,
    }
    arguments = [] if command == "list" else [str(new_run_id())]

    done = run_script("dead_letters.py", command, *arguments, env=environment)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "dead_letters: PostgreSQL cannot be reached (connection refused):"
        " look at RUNLEDGER_DATABASE_URL\n"
    )


def test_without_settings_nothing_is_begun() -> None:
    done = run_script("dead_letters.py", "list", env={"PATH": os.environ["PATH"]})
    assert done.returncode == 2
    assert "RUNLEDGER_DATABASE_URL" in done.stderr
