"""Runs of all sorts in a database that has lost everything but its log and its data keys."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from runs_api.deps import DEPS
from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.ids import Attempt, RunId
from runs_domain.settings import Secret
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from tests.support import builders as b
from tests.support.api import ME, MEMBER, MEMBERS, MINE, OTHER, THEIRS, Api
from tests.support.log_streams import SECRETS, Run
from tests.support.operators import environment_of
from tests.support.servers import Database, as_owner, create_database, drop_database
from workers.stack.servers import Servers

HOSTILE: Final = "\x1b]0;owned\x07 \x1b[2J\x9b31m tab\there \u202e gnp.exe \u2066 end"
USAGE: Final = e.Usage(input_tokens=30, cached_input_tokens=10, output_tokens=4)
GONE: Final = ("runs", "messages", "credits", "sandboxes", "checkpoints")
FIRST: Final = Attempt(1)


@dataclass
class Runs:
    environment: dict[str, str]
    ids: dict[str, RunId] = field(default_factory=dict)
    """`completed`, `under way`, `erased`, `newer`, `changed`, `beheaded`, `hostile`, `queued`."""
    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    """What the API said while all was there, by run and by what follows its path."""


@contextmanager
def runs_without_views(servers: Servers) -> Iterator[Runs]:
    """In a database of their own, dropped at the end."""
    database = create_database(servers)
    runs = Runs(environment_of(database))
    asyncio.run(_fill(runs, database))
    yield runs
    drop_database(servers, database)


async def _fill(runs: Runs, database: Database) -> None:
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        made = {
            "completed": await _completed(log),
            "under way": await _under_way(log),
            "erased": await _erased(log, database),
            "newer": await _completed(log),
            "changed": await _completed(log),
            "beheaded": await _completed(log),
            "hostile": await _hostile(log),
            "queued": await _queued(log),
        }
        runs.ids |= {name: run.run_id for name, run in made.items()}
        _damage(database, runs.ids)
        await _ask(runs, log)
    as_owner(database, f"DROP TABLE IF EXISTS {', '.join(GONE)} CASCADE")
    as_owner(database, "TRUNCATE run_heads")


async def _completed(log: PostgresEventLog, run: Run | None = None) -> Run:
    """Two calls to a model with two calls of a tool between, and what they cost."""
    run = run or Run(log, account_id=ME)
    await run.start()
    await run.do(_priced(b.tool_step(run.stream.state, 2)))
    first, second = run.stream.state.open_calls
    await run.do(c.StartTools(attempt=FIRST, call_ids=(first, second)))
    await run.do(b.tool_result(run.stream.state, second, output={"files": ["a", "b"]}))
    await run.do(b.tool_result(run.stream.state, first, output="done\nand done"))
    await run.do(_priced(b.text_step(run.stream.state, "The files are there.")))
    await run.do(c.CompleteRun(attempt=FIRST))
    await run.do(c.RecordSandboxReleased(found=True))
    return run


def _priced(step: c.PersistMessage) -> c.PersistMessage:
    return msgspec.structs.replace(step, usage=USAGE, cost="0.00125")


async def _under_way(log: PostgresEventLog) -> Run:
    run = Run(log, account_id=ME)
    await run.start()
    await run.do(b.tool_step(run.stream.state))
    await run.do(c.StartTools(attempt=FIRST, call_ids=run.stream.state.open_calls))
    await run.do(c.RequestCancel(by="client", why="took too long"))
    return run


async def _queued(log: PostgresEventLog) -> Run:
    run = Run(log, account_id=ME)
    await run.do(run.request())
    return run


async def _hostile(log: PostgresEventLog) -> Run:
    run = Run(log, account_id=MEMBER)
    await run.do(run.request(messages=(b.user_message(HOSTILE),), title=HOSTILE))
    await run.do(c.RequestCancel(by="client", why=f"why {HOSTILE}"))
    return run


async def _erased(log: PostgresEventLog, database: Database) -> Run:
    run = await _completed(log, Run(log, account_id=OTHER))
    as_owner(
        database,
        "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = now() WHERE account_id = %s",
        OTHER,
    )
    log.data_keys.forget(OTHER)
    return run


def _damage(database: Database, ids: Mapping[str, RunId]) -> None:
    as_owner(
        database,
        "UPDATE stored_events SET topic = 'run.paused.v3',"
        " state = convert_to(replace(convert_from(state, 'UTF8'), topic, 'run.paused.v3'),"
        " 'UTF8') WHERE originator_id = %s AND originator_version = 6",
        ids["newer"],
    )
    as_owner(
        database,
        "UPDATE stored_events SET state = overlay(state PLACING 'X' FROM 1)"
        " WHERE originator_id = %s AND originator_version = 5",
        ids["changed"],
    )
    as_owner(
        database,
        "DELETE FROM stored_events WHERE originator_id = %s AND originator_version = 1",
        ids["beheaded"],
    )


async def _ask(runs: Runs, log: PostgresEventLog) -> None:
    api = Api()
    api.app.state[DEPS] = replace(api.app.state[DEPS], log=log)
    keys = {"erased": THEIRS, "hostile": MEMBERS}
    whole = {"completed", "under way", "erased", "hostile", "queued"}
    for name, run_id in runs.ids.items():
        paths = ["/events", "/events?from_version=3", "?at=1", "?at=3", "?at=5"]
        if name in whole:
            paths += ["", "?at=2999-01-01T00:00:00Z"]
        for path in paths:
            answer = await api.get(f"/api/chat/runs/{run_id}{path}", keys.get(name, MINE))
            runs.answers[name, path] = answer.json if answer.status == 200 else answer.status
        if name in whole:
            chat = answer.json["chatId"]
            messages = await api.get(
                f"/api/chats/{chat}/messages?partial=true", keys.get(name, MINE)
            )
            runs.answers[name, "messages"] = messages.json["data"]
