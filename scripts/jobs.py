#!/usr/bin/env python3
"""Show the job system: `.venv/bin/python scripts/jobs.py [--json] [--watch]`.

What is queued, taken by a worker, waiting for its account's share, delayed; the oldest; the busiest
accounts; each worker with its slots and lease ages. Works with the processes' RUNLEDGER_* settings.
Exit 0 when Redis has answered, 1 when it cannot be reached.
"""

from operating.script import leave_with  # isort: split

import argparse
import asyncio
import logging
import os
import sys

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runs_domain.errors import QueueUnavailable
from runs_domain.settings import BadSettings, Settings, load
from runs_domain.storage.job_stats import JobStats, read_stats
from runs_domain.storage.redis_client import PipelinedRedis

WATCH_SECONDS = 1.0
UNREACHABLE = "Redis cannot be reached, or refuses, at RUNLEDGER_REDIS_URL"


def main() -> int:
    options = _parser().parse_args()
    logging.basicConfig(level=logging.ERROR)  # a connection that fails is told of in one sentence
    try:
        settings = load(os.environ)
        return asyncio.run(_run(settings, options))
    except BadSettings as error:
        print(f"jobs: {error}", file=sys.stderr)
        return 2
    except QueueUnavailable as error:
        print(f"jobs: {UNREACHABLE} ({error})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/jobs.py", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a reading, one a line")
    parser.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    return parser


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    redis = PipelinedRedis(settings.redis_url.reveal())
    try:
        if options.json:
            await _print_json(redis, watch=options.watch)
        elif options.watch:
            await _watch(redis)
        else:
            _print(page(await read_stats(redis)))
    finally:
        await redis.aclose()
    return 0


async def _print_json(redis: PipelinedRedis, *, watch: bool) -> None:
    while True:
        print(msgspec.json.encode(await read_stats(redis)).decode(), flush=True)
        if not watch:
            return
        await asyncio.sleep(WATCH_SECONDS)  # noqa: TID251 - a pace for human eyes


async def _watch(redis: PipelinedRedis) -> None:
    if not sys.stdout.isatty():
        while True:
            _print(page(await read_stats(redis)), "")
            await asyncio.sleep(WATCH_SECONDS)  # noqa: TID251 - a pace for human eyes
    with Live(page(await read_stats(redis)), auto_refresh=False) as live:
        while True:
            await asyncio.sleep(WATCH_SECONDS)  # noqa: TID251 - a pace for human eyes
            live.update(page(await read_stats(redis)), refresh=True)


def _print(*what: RenderableType) -> None:
    """By `print`, so that a reader who has left is a BrokenPipeError here as everywhere."""
    console = Console()
    with console.capture() as captured:
        console.print(*what, sep="\n")
    print(captured.get(), end="", flush=True)


def page(stats: JobStats) -> Group:
    oldest = (
        "none" if stats.oldest_queued_seconds is None else f"{stats.oldest_queued_seconds:.1f} s"
    )
    told = {
        "queued": stats.queued,
        "taken": stats.taken,
        "waiting": stats.waiting,
        "delayed": stats.delayed,
        "held": stats.held,
        "slots": stats.slots,
        "oldest": oldest,
    }
    line = Text("   ".join(f"{name} {value}" for name, value in told.items()))
    return Group(line, _accounts(stats), _workers(stats), _counters(stats))


def _accounts(stats: JobStats) -> Group:
    title = f"Busiest of {stats.accounts} accounts with queued, taken or waiting jobs"
    table = _table("account")
    table.add_column("queued or taken", justify="right")
    table.add_column("waiting", justify="right")
    for one in stats.busiest:
        table.add_row(Text(one.account), str(one.in_stream), str(one.waiting))
    return _titled(title, table)


def _workers(stats: JobStats) -> Group:
    table = _table("worker")
    for name in ("slots", "running", "leases", "lease age", "last word"):
        table.add_column(name, justify="right")
    for one in stats.workers:
        silent = "unknown" if one.silent_seconds is None else f"{one.silent_seconds:.1f} s ago"
        counts = (str(one.slots), str(one.running), str(one.leases))
        table.add_row(Text(one.worker), *counts, f"{one.lease_age_seconds:.1f} s", silent)
    return _titled("Workers (running: by their last word, up to 2 s old)", table)


def _counters(stats: JobStats) -> Group:
    table = _table("what")
    table.add_column("how often", justify="right")
    for name, count in stats.counters.items():
        if count:
            table.add_row(name, str(count))
    return _titled("Counted by all workers since Redis was last empty", table)


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    return table


def _titled(title: str, table: Table) -> Group:
    """Above the table, not its own title: that would wrap where the table is narrow."""
    return Group("", Text(title, style="italic", no_wrap=True), table)


if __name__ == "__main__":
    leave_with(main)
