#!/usr/bin/env python3
"""Make views anew from the log, beside those that are read: `scripts/rebuild_projections.py`.

Names views, or none for all of them: runs, messages, credits, sandboxes. Every row is folded anew
into a shadow table while clients, workers and the projector go on; then the shadow takes the
view's place, at the log's end, within the blink of a lock. The old table stays until then. Run it
with .venv/bin/python; it needs RUNLEDGER_ADMIN_DATABASE_URL, the owner's role, and the processes'
RUNLEDGER_* settings.

A rebuild that was killed, or whose disk was full, goes on where it was when the same command is
given again; --restart begins anew, --discard only throws away what is left of it, whichever views
it was of, --status says what there is.

--from-position P makes anew the rows of every run that has an event after position P, and copies
the others as they stand, right or wrong: for repairs after a fault that began at P. A view whose
checkpoint lies before P is made anew from its checkpoint on.

--dry-run changes nothing: it folds the log up to each view's checkpoint, and the rest of it to see
that it can be folded, and prints the rows that a rebuild would change, of one moment.

Exit 0: done, or nothing would change. 1: it failed, or rows would change. 2: bad arguments or
settings, or a dry run that could not look.
"""

from operating.script import ADMIN_URL, leave_with, owners_settings, told  # isort: split

import argparse
import asyncio
import json
from typing import Final

import msgspec
from operating.counted import many
from operating.view_arguments import add_view_arguments, views_of, whole
from operating.view_findings import print_findings
from operating.work_progress import shown

from runs_domain.ids import Position
from runs_domain.keys import secrets_of
from runs_domain.settings import Settings
from runs_domain.storage.long_work import DiskFull, NotAllowed
from runs_domain.storage.rebuild import Asked, Rebuilt, rebuild
from runs_domain.storage.rebuild_load import NAME
from runs_domain.storage.rebuild_state import State, describe, discard, state
from runs_domain.storage.view_check import CheckJob, check_views
from runs_domain.storage.view_compare import NAME as CHECK_NAME

PROGRAM: Final = "rebuild_projections"
FULL: Final = (
    "nothing was swapped in after that: make room and give the same command again to go on, or give"
    " --discard to get back the room that it has taken"
)


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if options.status or options.discard:
        if options.views:
            parser.error("this is of all the views of the rebuild that was left behind: name none")
        if options.from_position is not None:
            parser.error("a position is for a rebuild or its dry run")
    views = views_of(options, parser)

    def work() -> int:
        return asyncio.run(_run(owners_settings("tables are the owner's"), views, options))

    if options.dry_run:  # 1 says that rows would change
        return told(PROGRAM, ADMIN_URL, CHECK_NAME, work, failed=2)
    return told(PROGRAM, ADMIN_URL, NAME, work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"scripts/{PROGRAM}.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_view_arguments(
        parser,
        workers="processes that fold at once, each with a core of its own and one of PostgreSQL's"
        " sessions",
        limit="rows of each view that --dry-run prints",
    )
    parser.add_argument(
        "--from-position",
        type=whole(0, 2**63 - 1),
        metavar="P",
        help="only runs with an event after this position; the others are copied",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="say what would change")
    what.add_argument("--status", action="store_true", help="say what is under way or left behind")
    what.add_argument("--discard", action="store_true", help="throw away what was left behind")
    what.add_argument("--restart", action="store_true", help="throw that away and begin anew")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    return parser


async def _run(settings: Settings, views: tuple[str, ...], options: argparse.Namespace) -> int:
    url = settings.admin_database_url
    if options.status:
        _print_state(await state(url), as_json=options.json)
        return 0
    if options.discard:
        was_there = await discard(url)
        if options.json:
            print(json.dumps({"discarded": was_there}))
        else:
            print("thrown away" if was_there else "nothing was left behind")
        return 0
    if options.dry_run:
        return await _dry_run(settings, views, options)
    asked = Asked(views, options.workers, options.from_position, options.restart)
    with shown(PROGRAM) as show:
        try:
            rebuilt = await rebuild(url, secrets_of(settings), asked, show)
        except DiskFull as error:
            raise DiskFull(f"{error}; {FULL}") from error
        except NotAllowed as error:
            raise NotAllowed(f"{error}: {ADMIN_URL} is to be that of the tables' owner") from error
    _print_json(rebuilt) if options.json else _print(rebuilt)
    return 0


async def _dry_run(settings: Settings, views: tuple[str, ...], options: argparse.Namespace) -> int:
    job = CheckJob(
        url=settings.admin_database_url,
        secrets=secrets_of(settings),
        views=views,
        workers=options.workers,
        limit=options.limit,
        to_the_end=True,
        changed_after=None if options.from_position is None else Position(options.from_position),
    )
    with shown(PROGRAM) as show:
        found = await check_views(job, show)
    return print_findings(found, as_json=options.json, would=True)


def _print_state(found: State, *, as_json: bool) -> None:
    what = "left behind" if found.owner_pid is None else "under way"
    nothing = not found.entries and found.owner_pid is None
    if as_json:
        progress = found.progress
        shape = {
            "state": "none" if nothing else what,
            "views": [entry.view for entry in found.entries],
            "begun": found.entries[0].started_at.isoformat() if found.entries else None,
            "phase": found.entries[0].phase if found.entries else None,
            "events": progress.events if progress else None,
            "loaded": progress.loaded if progress else None,
        }
        print(json.dumps(shape))
    elif nothing:
        print("no rebuild is under way, and none was left behind")
    else:
        print(f"{what}: {describe(found)}")


def _print(rebuilt: Rebuilt) -> None:
    for view in rebuilt.views:
        print(
            f"{view}: rebuilt up to position {rebuilt.positions[view]},"
            f" swapped in {rebuilt.swap_ms[view]:g} ms"
        )
    pace = f"{_pace(rebuilt):,} events/s"
    print(f"{many(rebuilt.events, 'event')} in {rebuilt.seconds:.1f} s, {pace}")


def _print_json(rebuilt: Rebuilt) -> None:
    shape = msgspec.to_builtins(rebuilt)
    shape["seconds"] = round(rebuilt.seconds, 3)
    shape["loadSeconds"] = round(rebuilt.load_seconds, 3)
    shape["eventsPerSecond"] = _pace(rebuilt)
    print(json.dumps(shape))


def _pace(rebuilt: Rebuilt) -> int:
    """In events a second."""
    return round(rebuilt.events / rebuilt.seconds) if rebuilt.seconds else 0


if __name__ == "__main__":
    leave_with(
        main, interrupted="interrupted; --status says what is left, the same command goes on"
    )
