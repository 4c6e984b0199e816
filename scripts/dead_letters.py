#!/usr/bin/env python3
"""What the workers gave up on: `.venv/bin/python scripts/dead_letters.py COMMAND`.

A letter of reason `tries_exhausted` is of a run that has failed: a retry is a new run in the same
chat. One of reason `broken` is of a job that breaks before its run can count it, so that the run
is still open and gets no worker: a retry sends the job again. Works with the processes' RUNLEDGER_*
settings; `--as` says who you are, in events and letters.
"""

from operating.script import leave_with, told  # isort: split

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple, get_args
from uuid import UUID

import msgspec
from operating.actor import actor_of, name_of
from operating.letter_pages import print_letters, print_list

from runs_domain.dead_letters import DeadLetterDesk, Outcome
from runs_domain.dead_letters_port import DeadLetter, Reason
from runs_domain.errors import LetterRefused, RunledgerError
from runs_domain.ids import RunId
from runs_domain.keys import secrets_of
from runs_domain.settings import Settings, load
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.dead_letters import LETTERS_MAX, PostgresDeadLetters, last_events
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs

NAME: Final = "runledger dead letters"
QUERY_SECONDS_MAX: Final = 5.0
"""One statement, connecting included."""
EVENTS_SHOWN: Final = 10
NOT_FOUND: Final = "no such dead letter"


class Ops(NamedTuple):
    letters: PostgresDeadLetters
    desk: DeadLetterDesk
    log: PostgresEventLog
    connection: ReconnectingConnection


def main() -> int:
    options = _parser().parse_args()
    # What fails is told in one sentence, not by the log's and the queue's own warnings as well.
    logging.basicConfig(level=logging.ERROR)
    return told(
        "dead_letters",
        "RUNLEDGER_DATABASE_URL",
        NAME,
        lambda: asyncio.run(_run(load(os.environ), options)),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/dead_letters.py", description=__doc__)
    parser.set_defaults(name=None)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser(
        "list", help=f"the open letters, oldest first, {LETTERS_MAX} at most"
    )
    listing.add_argument("--all", action="store_true", help="those that were closed, too")
    listing.add_argument("--reason", choices=get_args(Reason))
    listing.add_argument("--json", action="store_true", help="one JSON array")
    show = commands.add_parser("show", help="a letter, its run, and the run's last events")
    show.add_argument("run", type=UUID)
    show.add_argument("--json", action="store_true", help="one JSON object")
    show.add_argument("--content", action="store_true", help="with what people and models said")
    for name, text in (
        ("retry", "repeat a dead run as a new one, or send a broken job again"),
        ("drop", "close a letter; a broken run that can be read fails"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("runs", nargs="*", type=UUID, metavar="run")
        command.add_argument("--all-of-reason", choices=get_args(Reason))
        command.add_argument("--as", dest="name", type=name_of, metavar="NAME", help="who you are")
    return parser


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    async with AsyncExitStack() as opened:
        connection = ReconnectingConnection(
            settings.database_url, name=NAME, seconds_max=QUERY_SECONDS_MAX
        )
        opened.push_async_callback(connection.close)
        letters = PostgresDeadLetters(connection)
        if options.command == "list":
            found = await letters.listed(reason=options.reason, closed_too=options.all)
            print_list(found, as_json=options.json, closed_too=options.all)
            return 0
        await letters.count_open()  # who is away is told so before the log is opened: it waits long
        redis = PipelinedRedis(settings.redis_url.reveal())
        opened.push_async_callback(redis.aclose)
        log = await opened.enter_async_context(
            open_log(settings.database_url, secrets_of(settings), SystemClock())
        )
        desk = DeadLetterDesk(log, letters, RedisJobs(redis), actor=actor_of(options.name))
        return await _obey(Ops(letters, desk, log, connection), options)


async def _obey(ops: Ops, options: argparse.Namespace) -> int:
    match options.command:
        case "show":
            return await _show(ops, RunId(options.run), options)
        case "retry":
            return await _each(ops, options, ops.desk.retry)
        case _:
            return await _each(ops, options, ops.desk.drop)


# ------------------------------------------------------------------------------ show


async def _show(ops: Ops, run_id: RunId, options: argparse.Namespace) -> int:
    found = await ops.letters.letters_of(run_id)
    if not found:
        print(f"dead_letters: {run_id}: {NOT_FOUND}", file=sys.stderr)
        return 1
    head = await ops.log.head(run_id)
    events: list[dict[str, Any]] = [
        msgspec.to_builtins(one) for one in await last_events(ops.connection, run_id, EVENTS_SHOWN)
    ]
    if options.content:
        await _add_content(ops, run_id, events)
    if options.json:
        shown = {"letters": found, "run": head, "events": events}
        print(msgspec.json.encode(shown).decode())
        return 0
    chat = () if head is None else await ops.log.heads_of_chat(head.chat_id)
    print_letters(found, head, chat, events)
    return 0


async def _add_content(ops: Ops, run_id: RunId, events: list[dict[str, Any]]) -> None:
    try:
        stored = await ops.log.read_stored(run_id)
    except RunledgerError as error:
        print(f"dead_letters: the content cannot be read: {type(error).__name__}", file=sys.stderr)
        return
    data = {one.version: msgspec.Raw(one.data) for one in stored}
    for event in events:
        event["data"] = data[event["version"]]


# ------------------------------------------------------------------------------ retry, drop


async def _each(
    ops: Ops,
    options: argparse.Namespace,
    act: Callable[[DeadLetter], Awaitable[Outcome]],
) -> int:
    """Every letter is tried, whatever becomes of the others; 1 if one was refused."""
    chosen: list[DeadLetter] = []
    code = 0
    for run_id in dict.fromkeys(options.runs):
        letters = await ops.letters.letters_of(RunId(run_id))
        chosen += [one for one in letters if one.closed_at is None] or letters
        if not letters:
            print(f"dead_letters: {run_id}: {NOT_FOUND}", file=sys.stderr)
            code = 1
    if options.all_of_reason:
        chosen += await ops.letters.listed(reason=options.all_of_reason)
    elif not options.runs:
        print("dead_letters: name runs, or --all-of-reason", file=sys.stderr)
        code = 1
    for letter in chosen:
        try:
            outcome = await act(letter)
        except LetterRefused as refused:
            print(f"dead_letters: {letter.id}: {refused}", file=sys.stderr)
            code = 1
        else:
            again = "" if outcome.retried_as is None else f" → {outcome.retried_as}"
            print(f"{letter.id}{again}: {outcome.sentence}")
    return code


if __name__ == "__main__":
    leave_with(main)
