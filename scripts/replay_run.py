#!/usr/bin/env python3
"""Show what a run did, when, how long it took and what it cost:
`.venv/bin/python scripts/replay_run.py RUN [--at VERSION|TIME] [--json | --plain]`.

From the log alone: it works while views, heads and Redis are gone. On a terminal the timeline is
interactive (arrows or j and k, Enter for another pane, q to leave); else it is a page of text,
followed by the messages as they were. Needs RUNLEDGER_DATABASE_URL and RUNLEDGER_SECRET. Exit 0
when the whole history was read, 1 when not (it says why), 2 for bad arguments or settings.
"""

from operating.script import leave_with, told  # isort: split

import argparse
import asyncio
import io
import logging
import os
import shutil
import sys
from typing import Final
from uuid import UUID

import msgspec
from replaying.page import print_page
from replaying.replayed import Replay, as_json, replay
from replaying.safe_text import safe_json

from runs_domain.as_of import Point, parse_point
from runs_domain.errors import InvalidPoint, NoSuchPoint
from runs_domain.ids import RunId
from runs_domain.keys import secrets_of
from runs_domain.settings import PREFIX, Settings, load
from runs_domain.storage.connection import check_urls
from runs_domain.storage.data_key_rows import PostgresDataKeys
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.run_history import RunHistory, read_history
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.snapshot import open_snapshot

NAME: Final = "runledger replay"
PROGRAM: Final = "replay_run"
NO_REDIS: Final = {f"{PREFIX}REDIS_URL": "redis://not-used"}


def main() -> int:
    options = _parser().parse_args()
    logging.basicConfig(level=logging.ERROR)
    return told(PROGRAM, f"{PREFIX}DATABASE_URL", NAME, lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/replay_run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=UUID, help="the run's id")
    parser.add_argument(
        "--at",
        type=_point,
        metavar="VERSION|TIME",
        help="as it was at one of its versions, or at a time such as 2026-01-31T09:30:00Z",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument("--plain", action="store_true", help="text, on a terminal too")
    return parser


def _point(text: str) -> Point:
    try:
        return parse_point(text)
    except InvalidPoint as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(options: argparse.Namespace) -> int:
    settings = load({**os.environ, **NO_REDIS})
    check_urls(settings)
    run_id = RunId(options.run)
    try:
        history = asyncio.run(_read(settings, run_id, options.at))
    except NoSuchPoint as error:
        print(f"{PROGRAM}: argument --at: {error}", file=sys.stderr)
        return 1
    shown = replay(str(run_id), history)
    _show(shown, options)
    if shown.trouble is not None:
        print(f"{PROGRAM}: {shown.trouble}", file=sys.stderr)
    return 0 if shown.trouble is None else 1


async def _read(settings: Settings, run_id: RunId, point: Point | None) -> RunHistory:
    async with open_snapshot(settings.database_url, name=NAME) as snapshot:
        data_keys = DataKeys(PostgresDataKeys(snapshot), secrets_of(settings), SystemClock())
        return await read_history(snapshot, data_keys, run_id, point)


def _show(shown: Replay, options: argparse.Namespace) -> None:
    assert isinstance(sys.stdout, io.TextIOWrapper)  # noqa: S101 - nobody has replaced it
    if options.json:
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: JSON has no other
        print(safe_json(msgspec.json.encode(as_json(shown)).decode()))
        return
    sys.stdout.reconfigure(errors="backslashreplace")
    if options.plain or not _is_interactive() or not shown.rows:
        print_page(shown, columns=shutil.get_terminal_size().columns)
    else:
        from replaying.screen import explore  # noqa: PLC0415 - pages and JSON are quicker without it

        explore(shown)


def _is_interactive() -> bool:
    dumb = os.environ.get("TERM", "dumb") in {"", "dumb", "unknown"}
    return sys.stdin.isatty() and sys.stdout.isatty() and not dumb


if __name__ == "__main__":
    leave_with(main)
