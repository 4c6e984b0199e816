#!/usr/bin/env python3
"""Check that every row of the views is the fold of the log: `scripts/verify_views.py [VIEW…]`.

Looks at one moment of the database: each view up to its own checkpoint, so that a projector that
is behind breaks nothing. Rows that are missing, extra or changed are named; so is a view that
stands still, or whose checkpoint is beyond the log's end. Messages are compared unsealed, and told
by a digest alone. Reads only, and is in nobody's way but a rebuild's, whose swap waits. Run it with
.venv/bin/python; it works with the processes' RUNLEDGER_* settings.

Exit 0: every row is right. 1: something is not. 2: could not look.
"""

from operating.script import leave_with, told  # isort: split

import argparse
import asyncio
import os
from typing import Final

from operating.view_arguments import add_view_arguments, views_of
from operating.view_findings import print_findings
from operating.work_progress import shown

from runs_domain.keys import secrets_of
from runs_domain.settings import load
from runs_domain.storage.view_check import CheckJob, check_views
from runs_domain.storage.view_compare import NAME

PROGRAM: Final = "verify_views"


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    views = views_of(options, parser)
    return told(
        f"{PROGRAM}: could not look",
        "RUNLEDGER_DATABASE_URL",
        NAME,
        lambda: asyncio.run(_run(views, options)),
        failed=2,  # 1 says that rows are wrong
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"scripts/{PROGRAM}.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_view_arguments(
        parser,
        workers="processes that compare at once",
        limit="differences of each view to name",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


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
