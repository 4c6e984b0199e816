#!/usr/bin/env python3
"""Fill a log with made-up runs, to measure and to try things on: never on real data.

`.venv/bin/python scripts/seed_log.py --runs 100000` with the processes' RUNLEDGER_* settings and
RUNLEDGER_ADMIN_DATABASE_URL. A hundred runs have nine hundred events: most complete, some with a
tool call, some fail, are cancelled or are taken over. Every event is one that the aggregate
decides, chained, sealed and placed as a live log's; runs overlap. Rows go in by COPY, and nothing
else can be appended meanwhile. The same seed and `--until` make the same runs; only the sealing
differs. Of a seed that is killed the batches that were committed stay: whole runs, from the first
on; `--append` puts more after them.
"""

from operating.script import ADMIN_URL, leave_with, owners_settings, told  # isort: split

import argparse
import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from seeding.copying import NAME, connect, copy_all, data_keys_of
from seeding.plan import Plan
from seeding.stories import MICROSECONDS

from runs_domain.errors import RunledgerError
from runs_domain.ids import Position
from runs_domain.keys import KEY_BYTES, new_key, secrets_of
from runs_domain.settings import Settings
from runs_domain.storage.accounts import Accounts
from runs_domain.storage.batch_call import APPEND_LOCK
from runs_domain.storage.connection import ReconnectingConnection, unavailable
from runs_domain.storage.identity import SystemClock

RUNS_MAX = 100_000_000
ACCOUNTS_MAX = 4_096
CONTENT_BYTES_MAX = 100_000
WORKERS_MAX = 16
OWNER_SECONDS_MAX = 10.0
LOCK_SECONDS_MAX = 10
"""What a seed waits for appends and other seeds that are under way."""
ROOM_SECONDS_MIN = 0.01
"""Between the newest event and now: where new events are to go."""


class CannotSeed(RunledgerError):
    """Why nothing was written."""


def main() -> int:
    options = _parser().parse_args()

    def work() -> int:
        settings = owners_settings("rows are copied as the owner")
        try:
            return _seed(settings, options)
        except psycopg.Error as error:
            raise unavailable(NAME, error) from None

    return told("seed_log", ADMIN_URL, NAME, work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/seed_log.py", description=__doc__)
    parser.add_argument("--runs", type=_whole(RUNS_MAX), required=True)
    parser.add_argument("--accounts", type=_whole(ACCOUNTS_MAX), default=100)
    parser.add_argument(
        "--content-bytes",
        type=_whole(CONTENT_BYTES_MAX),
        default=500,
        help="of each message's text (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="the same number, the same runs")
    parser.add_argument(
        "--workers", type=_whole(WORKERS_MAX), default=2, help="processes that copy"
    )
    parser.add_argument(
        "--live", type=_whole(RUNS_MAX, least=0), default=0, help="the last so many are under way"
    )
    parser.add_argument(
        "--until", type=_time, help="when the last batch ends (RFC 3339; default: now)"
    )
    parser.add_argument("--append", action="store_true", help="also to a log that is not empty")
    parser.add_argument("--json", action="store_true", help="one JSON object, no progress bar")
    return parser


def _whole(most: int, *, least: int = 1) -> Any:
    def number(given: str) -> int:
        if not (given.isascii() and given.isdecimal()) or not least <= int(given) <= most:
            raise argparse.ArgumentTypeError(f"it takes {least} to {most}")
        return int(given)

    return number


def _time(given: str) -> datetime:
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise argparse.ArgumentTypeError("it takes a time such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("it takes a time with its zone, such as …T12:00:00Z")
    return moment.astimezone(UTC)


def _seed(settings: Settings, options: argparse.Namespace) -> int:
    if options.live > options.runs:
        raise CannotSeed(f"{options.live} of {options.runs} runs cannot be live")
    began = time.monotonic()
    with connect(settings.admin_database_url) as owner:
        _lock(owner)
        plan = _plan(owner, settings, options)
        asyncio.run(_make_accounts(settings, plan))
        asyncio.run(data_keys_of(settings, plan))
        _reserve(owner, plan)
        with _progress(plan, shown=not options.json) as advance:
            for done in copy_all(plan, options.workers):
                advance(done.runs, done.events)
        seconds = time.monotonic() - began
        for table in ("stored_events", "run_heads", "api_keys"):
            owner.execute(f"ANALYZE {table}".encode())
    _tell(plan, seconds, as_json=options.json)
    return 0


def _lock(owner: "psycopg.Connection[Any]") -> None:
    """Shared with the processes that copy, once whoever appends has ended; held to our end."""
    owner.execute(f"SET lock_timeout = '{LOCK_SECONDS_MAX}s'".encode())
    try:
        owner.execute("SELECT pg_advisory_lock(%s)", (APPEND_LOCK,))
    except psycopg.errors.LockNotAvailable:
        sentence = f"somebody else has the log, after {LOCK_SECONDS_MAX} s still: another seed?"
        raise CannotSeed(sentence) from None
    owner.execute("SELECT pg_advisory_lock_shared(%s)", (APPEND_LOCK,))
    owner.execute("SELECT pg_advisory_unlock(%s)", (APPEND_LOCK,))


def _plan(
    owner: "psycopg.Connection[Any]", settings: Settings, options: argparse.Namespace
) -> Plan:
    """Raises CannotSeed if the log has events and nobody asked for more."""
    [(position, is_called, clock, has_events)] = owner.execute(
        "SELECT last_value, is_called, (SELECT last_value FROM log_clock),"
        " EXISTS (SELECT FROM stored_events) FROM stored_events_notification_id_seq"
    ).fetchall()
    if has_events and not options.append:
        raise CannotSeed("the log is not empty; --append puts the runs after what is there")
    until = options.until or SystemClock().now()
    plan = Plan(
        seed=options.seed,
        runs=options.runs,
        live=options.live,
        accounts=options.accounts,
        content_bytes=options.content_bytes,
        begin=0,
        stretch=1.0,
        position=Position(position if is_called else 0),
        secret_version=settings.secret_version,
    )
    return _between(plan, clock, int(until.timestamp() * MICROSECONDS))


def _between(plan: Plan, newest: int, until: int) -> Plan:
    """The plan so that it ends at `until` and begins after `newest`, compressed if need be."""
    room = until - newest - 1
    if room < ROOM_SECONDS_MIN * MICROSECONDS:
        raise CannotSeed("the newest event is too new for others to go between it and --until")
    stretch = min(1.0, room / plan.end)
    return plan._replace(stretch=stretch)._replace(begin=until - int(plan.end * stretch))


async def _make_accounts(settings: Settings, plan: Plan) -> None:
    owner = ReconnectingConnection(
        settings.admin_database_url, name=NAME, seconds_max=OWNER_SECONDS_MAX
    )
    accounts = Accounts(owner, secrets_of(settings), settings.key_prefix)
    try:
        for number in range(plan.accounts):
            account = plan.account(number)
            if await accounts.exists(account):
                continue
            await accounts.create("person", f"Seeded {plan.seed}:{number}", account_id=account)
            # A key that nobody knows: it stands for what the runs were requested with.
            raw = new_key(settings.key_prefix, os.urandom(KEY_BYTES))
            await accounts.store_key(account, plan.account_key(number), raw)
    finally:
        await owner.close()


def _reserve(owner: "psycopg.Connection[Any]", plan: Plan) -> None:
    """Whatever is appended after us comes later, in place and in time, also if we are killed."""
    owner.execute(
        "SELECT setval('stored_events_notification_id_seq', %s), setval('log_clock', %s)",
        (plan.position + plan.events, plan.end),
    )


@contextmanager
def _progress(plan: Plan, *, shown: bool) -> Iterator[Any]:
    columns = (
        TextColumn("{task.completed:,} of {task.total:,} events"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not shown) as progress:
        task: TaskID = progress.add_task("", total=plan.events, speed="")

        def advance(_runs: int, events: int) -> None:
            speed = progress.tasks[task].speed
            text = "" if speed is None else f"{speed:,.0f} a second"
            progress.update(task, advance=events, speed=text)

        yield advance


def _tell(plan: Plan, seconds: float, *, as_json: bool) -> None:
    figures = {
        "runs": plan.runs,
        "live": plan.live,
        "events": plan.events,
        "accounts": plan.accounts,
        "firstPosition": plan.position + 1,
        "lastPosition": plan.position + plan.events,
        "seconds": round(seconds, 2),
        "eventsPerSecond": round(plan.events / seconds),
    }
    if as_json:
        print(json.dumps(figures))
        return
    print(
        f"{plan.runs:,} runs of {plan.accounts:,} accounts, {plan.events:,} events"
        f" in {seconds:.1f} s: {figures['eventsPerSecond']:,} a second"
    )


if __name__ == "__main__":
    leave_with(main, interrupted="interrupted; the batches that were committed stay")
