#!/usr/bin/env python3
"""Erase an account for ever: `.venv/bin/python scripts/erase_account.py ACCOUNT`.

Destroys the data key that all its content is sealed under, and clears what was made of it: views,
live streams, exports and sandboxes in the data folder. Its history stays, can be verified, and
says nothing any more. What it did is a receipt; docs/erasure.md explains it. A run that was cut
short is finished by the same command. Works with the processes' RUNLEDGER_* settings, and
RUNLEDGER_ADMIN_DATABASE_URL for the owner's role. Exit 0: erased, 1: not, or not completely.
"""

from operating.script import (  # isort: split
    ADMIN_URL,
    leave_with,
    owners_settings,
    redis_away,
    told,
)

import argparse
import asyncio
import logging
import sys
from contextlib import AsyncExitStack
from uuid import UUID

from erasing.receipt import as_json, as_text
from erasing.steps import STEPS, Erasing, StillLiveError
from operating.actor import actor_of, name_of
from redis.exceptions import RedisError

from runs_domain.errors import QueueUnavailable
from runs_domain.ids import AccountId
from runs_domain.keys import secrets_of
from runs_domain.settings import Settings
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.erasure import LOCK_PARAMETERS, Erasure, Subject, subject_of
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import open_log
from runs_domain.storage.redis_client import PipelinedRedis

NAME = "runledger erasure"
LOOK_SECONDS_MAX = 5.0
"""Whether the account is there: a server that hangs is told soon."""
STATEMENT_SECONDS_MAX = 60.0
"""One statement, connecting included; the longest looks through all API keys."""
REWRITE_SECONDS_MAX = 900.0
"""A VACUUM of all messages."""
WAIT_SECONDS = 60.0
WAIT_SECONDS_MAX = 3600.0


def main() -> int:
    options = _parser().parse_args()
    # What fails is told in one sentence, not by the log's and the queue's own warnings as well.
    logging.basicConfig(level=logging.ERROR)

    def work() -> int:
        settings = owners_settings("accounts are the owner's")
        try:
            return asyncio.run(_run(settings, options))
        except QueueUnavailable as error:
            return _no(redis_away(error))

    return told("erase_account", ADMIN_URL, NAME, work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/erase_account.py", description=__doc__)
    parser.add_argument("account", type=UUID)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--by", type=name_of, metavar="NAME", help="who you are, for the record")
    parser.add_argument(
        "--wait-seconds",
        type=_seconds,
        default=WAIT_SECONDS,
        metavar="N",
        help="how long its live runs, which are cancelled, may take to end (default: %(default)g)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="destroy the key though runs are still live; run it once more when they have ended",
    )
    parser.add_argument(
        "--rewrite",
        action="store_true",
        help="have the files of the accounts' tables written anew however large they are: requests"
        " wait, about five seconds for a million accounts",
    )
    parser.add_argument("--json", action="store_true", help="the receipt as one JSON object")
    return parser


def _seconds(given: str) -> float:
    seconds = float(given)
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"it takes 0 to {WAIT_SECONDS_MAX:g} seconds")
    return seconds


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    account = AccountId(options.account)
    async with AsyncExitStack() as opened:

        def owner(seconds_max: float) -> ReconnectingConnection:
            connection = ReconnectingConnection(
                settings.admin_database_url,
                name=NAME,
                seconds_max=seconds_max,
                parameters=LOCK_PARAMETERS,
            )
            opened.push_async_callback(connection.close)
            return connection

        subject = await subject_of(owner(LOOK_SECONDS_MAX), account)
        if subject is None:
            return _no(f"no such account: {account}")
        erasure = Erasure(owner(STATEMENT_SECONDS_MAX), owner(REWRITE_SECONDS_MAX), account)
        redis = PipelinedRedis(settings.redis_url.reveal())
        opened.push_async_callback(redis.aclose)
        await _look_at(redis)
        if not (options.yes or _confirmed(account, subject)):
            return 1
        clock = SystemClock()
        log = await opened.enter_async_context(
            open_log(settings.database_url, secrets_of(settings), clock)
        )
        erasing = Erasing(
            erasure,
            log,
            redis,
            clock,
            settings,
            account=account,
            by=actor_of(options.by),
            wait_seconds=options.wait_seconds,
            force=options.force,
            however_large=options.rewrite,
            say=lambda sentence: print(f"erase_account: {sentence}", file=sys.stderr),
        )
        return await _erase(erasing, as_json_object=options.json)


async def _erase(erasing: Erasing, *, as_json_object: bool) -> int:
    code = 0
    try:
        for step in STEPS:
            await step(erasing)
    except StillLiveError as error:
        code = _no(str(error))
    receipt = await erasing.receipt()
    print((as_json if as_json_object else as_text)(receipt))
    return code if receipt.complete else 1


async def _look_at(redis: PipelinedRedis) -> None:
    """Before anything is changed: without Redis the live streams' text would stay in it."""
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        raise QueueUnavailable(type(error).__name__) from error


def _confirmed(account: AccountId, subject: Subject) -> bool:
    if not sys.stdin.isatty():
        _no("without a terminal nobody can confirm: --yes says that it is meant")
        return False
    print(
        f"This erases {subject.kind} account {account} and the content of its {subject.runs} runs."
        " Nobody can undo it.",
        file=sys.stderr,
    )
    print("Type the account's id to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() != str(account):
        _no("that is not the account's id: nothing was changed")
        return False
    return True


def _no(sentence: str) -> int:
    print(f"erase_account: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    leave_with(main, interrupted="interrupted; what had begun, the same command finishes")
