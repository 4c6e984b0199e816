#!/usr/bin/env python3
"""Carry an account's history away: `.venv/bin/python scripts/export_history.py --account ID …`.

DIR becomes a bundle that anybody can check without a database (docs/export.md). The same command
goes on where a killed one was. Works with the processes' RUNLEDGER_* settings and changes nothing
in the database. Times are ISO 8601 with an offset or Z; --since is in the span, --until is not.
"""

from operating.script import leave_with, told  # isort: split

import argparse
import asyncio
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from bundle_check.bundle import MANIFEST
from exporting.export import BadArguments, Export
from exporting.files import CannotExport
from exporting.place import Place
from exporting.state import Manifest, written
from exporting.writer import BundleWriter
from operating.counted import many

from runs_domain.settings import Settings, load
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.export_reads import PAGE_SECONDS_MAX, SWEEP_POSITIONS_MAX
from runs_domain.storage.export_span import SpanRefused
from runs_domain.storage.postgres_log import LOOK_UP_SETTINGS

LOOK_SECONDS_MAX: Final = 5.0
"""For the first look, connecting included: whoever is away is told so soon."""
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NAME: Final = "runledger export"


def main() -> int:
    options = _parser().parse_args()

    def work() -> int:
        try:
            return asyncio.run(_run(load(os.environ), options))
        except SpanRefused as error:
            raise BadArguments(str(error)) from None
        except OSError as error:
            again = "; make room, and the same command goes on" if error.errno in NO_ROOM else ""
            raise CannotExport(f"{error.filename}: {error.strerror}{again}") from None

    return told("export_history", "RUNLEDGER_DATABASE_URL", NAME, work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/export_history.py", description=__doc__)
    parser.add_argument("--account", type=UUID, required=True, metavar="ID")
    parser.add_argument("--since", type=_time, metavar="TIME", help="default: from the beginning")
    parser.add_argument("--until", type=_time, metavar="TIME", help="default: now")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")
    parser.add_argument(
        "--unsealed", action="store_true", help="readable content too, in files of its own"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _time(given: str) -> datetime:
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        raise argparse.ArgumentTypeError("a time is like 2026-01-31T12:00:00Z") from None
    if at.tzinfo is None:
        raise argparse.ArgumentTypeError("a time needs its offset, or Z for UTC")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise argparse.ArgumentTypeError("that time is out of reach") from None


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    async with AsyncExitStack() as opened:
        connections = {
            seconds: ReconnectingConnection(
                settings.database_url,
                name=NAME,
                seconds_max=seconds,
                parameters=LOOK_UP_SETTINGS,
            )
            for seconds in (LOOK_SECONDS_MAX, PAGE_SECONDS_MAX)
        }
        for connection in connections.values():
            opened.push_async_callback(connection.close)
        export = Export(settings, connections[PAGE_SECONDS_MAX], options)
        await export.check(connections[LOOK_SECONDS_MAX])
        place = Place(options.out)
        opened.callback(place.close)
        found = place.found()
        if isinstance(found, Manifest):
            export.refuse_other(found.account, found.asked)
            print(f"export_history: {options.out} was finished before", file=sys.stderr)
            _tell(options, found)
            return 0
        if found is not None:
            state = await export.goes_on(found)
        else:
            try:
                state = await export.begins(place)
            except BaseException:
                place.abandon()
                raise
        _tell(options, await export.write(BundleWriter(place, state), state.header))
    return 0


def _tell(options: argparse.Namespace, manifest: Manifest) -> None:
    counts, window = manifest.counts, manifest.window
    digest = hashlib.sha256((options.out / MANIFEST).read_bytes()).hexdigest()
    if options.json:
        facts = json.loads(written(manifest))
        print(json.dumps({"out": str(options.out), "manifestSha256": digest, **facts}))
    else:
        print(f"{options.out}: {many(counts.runs, 'run')}, {many(counts.events, 'event')}")
        print(f"account:  {manifest.account}")
        print(f"span:     {window.since or 'the beginning'} to {window.until}")
        print(f"          {counts.begun_before} runs begin before it")
        print(f"erased:   {many(counts.erased, 'run')}")
        print(f"manifest: SHA-256 {digest}")
    for sentence in _warnings(manifest):
        print(f"export_history: {sentence}", file=sys.stderr)


def _warnings(manifest: Manifest) -> Iterator[str]:
    if manifest.runs_without_head:
        yield (
            f"{manifest.runs_without_head} of the runs have lost their heads; their events are here"
        )
    if not manifest.searched_for_lost_heads:
        yield (
            f"the span has more than {SWEEP_POSITIONS_MAX} positions, so it was not searched for"
            " runs that have lost their heads; scripts/verify_history.py --all does that"
        )
    if manifest.counts.damaged:
        yield (
            f"{manifest.counts.damaged} events are damaged; scripts/verify_history.py --bundle"
            f" names the first of each run"
        )


if __name__ == "__main__":
    leave_with(main, interrupted="interrupted; the same command goes on")
