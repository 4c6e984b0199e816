"""What grows with the log and what does not: 10,000, 100,000 and 1,000,000 runs, each beside a
small log in the same minute.

Every request is made in turn to the stack on the large log and to one on a small log, so that
whatever else the machine does meets both; a ratio is that of the two medians. Prints one JSON line
a size. `--write` also puts them into docs/scaling.json, and has scripts/plot_scaling.py make
docs/scaling.svg and the tables in docs/scaling.md of it. The full size needs about 30 GB in TMPDIR
and an hour.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from runs_api.cursor import cursor_of
from runs_domain.ids import AccountId, Position
from runs_domain.run_lists_port import ListQuery
from scripts.bench_parts._paired import Asked, paired
from scripts.bench_parts._seeded import (
    LOG_TABLES,
    SCRIPTS,
    VIEWS,
    Place,
    bare_servers,
    data_directory,
    key_of,
    largest_account,
    run_script,
    say,
    seed,
    stack_on,
    vacuum,
)
from scripts.bench_parts._visible import BODY, LIST, OK, visible
from scripts.bench_parts.appends import load
from scripts.bench_parts.lib import emit, machine

SIZES = (10_000, 100_000, 1_000_000)
SMALL_RUNS = 200
"""Of the log beside it, all of one account: as good as empty, and its pages are full."""
WORKERS = "2"
ASKS = 400
POSTS = 200
APPEND_CALLERS = 16
VISIBLE_RUNS, VISIBLE_RATE = 100, 10.0
PAGE_ROWS = 50
RATIO = 1.3
HELD_TO_RATIO = ("post", "get_run", "list_first_page")
JSON_FILE = Path(__file__).parents[2] / "docs" / "scaling.json"


def main() -> None:
    options = _options()
    lines = []
    with data_directory() as small_folder:
        with bare_servers(small_folder) as small:
            _fill(small, SMALL_RUNS, "--accounts", "1")
        for runs in options.sizes:
            with data_directory() as folder:
                line = _one_size(folder, small_folder, runs)
            emit("scale", line)
            lines.append(line)
    if options.write:
        JSON_FILE.write_text(json.dumps({"sizes": lines, "machine": machine()}, indent=1) + "\n")
        command = [sys.executable, str(SCRIPTS / "plot_scaling.py")]
        subprocess.run(command, check=True)  # noqa: S603 - our own argv
        say("wrote scaling.json, and made scaling.svg and the tables in scaling.md of it")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench scale", description=__doc__)
    parser.add_argument(
        "--sizes",
        type=lambda given: [int(size) for size in given.split(",")],
        default=list(SIZES),
        help=f"runs of each log (default: {','.join(map(str, SIZES))})",
    )
    parser.add_argument("--write", action="store_true", help=f"write {JSON_FILE.name} in docs")
    return parser.parse_args()


def _one_size(folder: Path, small_folder: Path, runs: int) -> dict[str, Any]:
    with bare_servers(folder) as place:
        line: dict[str, Any] = {"runs": runs, **_fill(place, runs)}
        say("verifies every history")
        verified = run_script(place, "verify_history.py", "--all", "--workers", WORKERS, "--json")
        line["verify_seconds"] = verified.said["seconds"]
        line["verify_events_per_s"] = verified.said["eventsPerSecond"]
        line["sizes"] = _sizes(place)
    with ExitStack() as stacks:
        say("starts a stack on the log, and one on a small log")
        large = stacks.enter_context(stack_on(folder))
        small = stacks.enter_context(stack_on(small_folder))
        line["requests"] = asyncio.run(_requests(large, small))
        say("looks for runs in the list")
        found = asyncio.run(visible(large[1], runs=VISIBLE_RUNS, runs_per_second=VISIBLE_RATE))
        line["visible"] = {"asked_posts_per_s": VISIBLE_RATE, **found.figures()}
    with bare_servers(folder) as place:
        say("appends")  # last: nobody is to take up what it appends
        line["appends"] = asyncio.run(load(place.env["RUNLEDGER_DATABASE_URL"], APPEND_CALLERS))
    ratios = {name: line["requests"][name]["ratio"] for name in HELD_TO_RATIO}
    line["targets"] = {"ratio": f"<= {RATIO}"}
    line["met"] = {name: ratio <= RATIO for name, ratio in ratios.items()}
    return line


def _fill(place: Place, runs: int, *options: str) -> dict[str, Any]:
    """A seeded log whose views are rebuilt from nothing."""
    seeded = seed(place, runs, *options)
    say("rebuilds all views")
    rebuilt = run_script(place, "rebuild_projections.py", "--workers", WORKERS, "--json").said
    vacuum(place, *VIEWS)
    return {
        "events": seeded["events"],
        "seed_seconds": seeded["seconds"],
        "rebuild_seconds": rebuilt["seconds"],
        "rebuild_events_per_s": rebuilt["eventsPerSecond"],
    }


def _sizes(place: Place) -> dict[str, Any]:
    """Bytes on disk of each table's rows, of what is stored out of line, and of each index."""
    rows = place.rows(
        """
        SELECT relname, pg_relation_size(oid),
            coalesce(pg_total_relation_size(nullif(reltoastrelid, 0)), 0),
            (SELECT coalesce(json_object_agg(i.indexrelid::regclass::text,
                pg_relation_size(i.indexrelid)), '{}') FROM pg_index AS i WHERE i.indrelid = c.oid)
        FROM pg_class AS c WHERE relname = ANY(%s) AND relkind = 'r'
        """,
        [*LOG_TABLES, *VIEWS],
    )
    return {
        name: {"rows": heap, "out_of_line": toast, "indexes": dict(sorted(indexes.items()))}
        for name, heap, toast, indexes in sorted(rows)
    }


# ------------------------------------------------------------------------------ requests


class _Side(NamedTuple):
    """One of the two stacks, and what can be asked of it."""

    details: dict[str, Any]
    key: str
    account: AccountId
    runs: list[UUID]
    """Of the account, from all over the log."""
    deep: Position
    """Two pages before the end of its list."""


Stack = tuple[Place, dict[str, Any]]


async def _requests(large: Stack, small: Stack) -> dict[str, Any]:
    sides = [await _side(*large), await _side(*small)]
    figures = {}
    for name, path in ASKED_FOR.items():
        say(f"asks for {name}")
        asked = [Asked(side.details, side.key, "GET", partial(path, side)) for side in sides]
        figures[name] = await paired(asked, times=ASKS, status=OK)
    say("posts")
    figures["post"] = await paired(
        [Asked(side.details, side.details["apiKey"], "POST", lambda: LIST, BODY) for side in sides],
        times=POSTS,
        status=202,
    )
    return figures


async def _side(place: Place, details: dict[str, Any]) -> _Side:
    account = largest_account(place)
    runs = place.rows(
        "SELECT run_id, requested_position FROM run_heads WHERE account_id = %s"
        " ORDER BY requested_position DESC",
        account,
    )
    chosen = random.Random(1).sample(runs, min(len(runs), ASKS))  # noqa: S311 - no secret
    return _Side(
        details=details,
        key=await key_of(place, account),
        account=account,
        runs=[run_id for run_id, _ in chosen],
        deep=Position(runs[-2 * PAGE_ROWS][1]),
    )


def _any(side: _Side) -> UUID:
    """One after another, so that few are asked for twice."""
    side.runs.append(side.runs.pop(0))
    return side.runs[0]


def _deep_page(side: _Side) -> str:
    query = ListQuery(account_id=side.account, limit=PAGE_ROWS)
    return f"{LIST}?limit={PAGE_ROWS}&cursor={cursor_of(query, side.deep)}"


ASKED_FOR: Mapping[str, Callable[[_Side], str]] = {
    "get_run": lambda side: f"{LIST}/{_any(side)}",
    "get_events": lambda side: f"{LIST}/{_any(side)}/events",
    "list_first_page": lambda _: f"{LIST}?limit={PAGE_ROWS}",
    "list_deep_page": _deep_page,
}

if __name__ == "__main__":
    main()
