#!/usr/bin/env python3
"""Check that every row of the views is the fold of the log: `scripts/verify_views.py [VIEW…]`.

Looks at one moment of the database: each view up to its own checkpoint, so that a projector that
is behind breaks nothing. Rows that are missing, extra or changed are named; so is a view that
stands still, or whose checkpoint is beyond the log's end. Messages are compared unsealed, and told
by a digest alone. Reads only, and is in nobody's way but a rebuild's, whose swap waits. Run it with
.venv/bin/python; it works with the processes' RUNLEDGER_* settings.

Exit 0: every row is right. 1: something is not. 2: could not look.
"""

from operating.script import leave_with, postgres_away  # isort: split

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from typing import Final

from operating.view_findings import print_findings
from operating.work_progress import shown

from runs_domain.errors import RunledgerError, StoreUnavailable, UnknownView
from runs_domain.keys import secrets_of
from runs_domain.settings import load
from runs_domain.storage.view_check import CheckJob, check_views
from runs_domain.storage.view_compare import NAME
from runs_domain.storage.views import named

PROGRAM: Final = "verify_views"
WORKERS_MAX: Final = 64
SHOWN: Final = 20
SHOWN_MAX: Final = 1_000_000


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    try:
        views = tuple(view.name for view in named(options.views))
        return asyncio.run(_run(views, options))
    except UnknownView as error:
        parser.error(str(error))
    except StoreUnavailable as error:
        where = postgres_away(error, setting="RUNLEDGER_DATABASE_URL", name=NAME)
        print(f"{PROGRAM}: could not look: {where}", file=sys.stderr)
    except RunledgerError as error:
        print(f"{PROGRAM}: could not look: {error}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"scripts/{PROGRAM}.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("views", nargs="*", metavar="VIEW", help="names of views; none = all")
    parser.add_argument(
        "--limit",
        type=_whole(0, SHOWN_MAX),
        default=SHOWN,
        help="differences of each view to name (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=_whole(1, WORKERS_MAX),
        default=min(os.cpu_count() or 1, WORKERS_MAX),
        help="processes that compare at once (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    def whole(given: str) -> int:
        if not (given.isascii() and given.isdecimal() and least <= int(given[:20]) <= most):
            raise argparse.ArgumentTypeError(f"it takes a whole number from {least} to {most}")
        return int(given)

    return whole


async def _run(views: tuple[str, ...], options: argparse.Namespace) -> int:
    settings = load(os.environ)
    job = CheckJob(
        url=settings.database_url,
        secrets=secrets_of(settings),
        views=views,
        workers=options.workers,
        limit=options.limit,
    )
    with shown(PROGRAM) as show:
        found = await check_views(job, show)
    return print_findings(found, as_json=options.json, would=False)


if __name__ == "__main__":
    leave_with(main)
