#!/usr/bin/env python3
"""Make docs/scaling.svg of docs/scaling.json: `.venv/bin/python scripts/plot_scaling.py`.

The JSON is what `scripts/bench scale --write` measured. With --check nothing is written: exit 1 if
the plot is not what the JSON makes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from chart import Chart, Line, page

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
REQUESTS: Final = {
    "post": "POST a run",
    "get_run": "GET a run",
    "get_events": "GET its events",
    "list_first_page": "first page",
    "list_deep_page": "deep page",
}
LOG: Final = ("stored_events", "run_heads", "api_keys")
GIGABYTE: Final = 1e9


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/plot_scaling.py", description=__doc__)
    parser.add_argument(
        "--json", type=Path, default=DOCS / "scaling.json", help="what was measured"
    )
    parser.add_argument("--svg", type=Path, default=DOCS / "scaling.svg", help="the plot")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    options = parser.parse_args()
    try:
        made = plot(json.loads(options.json.read_text("utf-8"))["sizes"])
        there = options.svg.read_text("utf-8") if options.check else ""
    except (OSError, ValueError, KeyError) as error:
        print(f"plot_scaling: cannot be plotted: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if options.check:
        if made != there:
            print(f"plot_scaling: {options.svg} is not what {options.json} makes", file=sys.stderr)
        return int(made != there)
    options.svg.write_text(made, "utf-8")
    return 0


def plot(sizes: list[dict[str, Any]]) -> str:
    """`sizes`: one object a size, smallest first."""
    runs = [size["runs"] for size in sizes]
    requests = [
        Line(told, [size["requests"][name]["p50_ms"] for size in sizes])
        for name, told in REQUESTS.items()
    ]
    ratios = [
        Line(told, [size["requests"][name]["ratio"] for size in sizes])
        for name, told in REQUESTS.items()
    ]
    work = [
        Line("rebuild of all", [size["rebuild_seconds"] for size in sizes]),
        Line("verify all", [size["verify_seconds"] for size in sizes]),
    ]
    disk = [
        Line("events", [_events(size, indexes=False) for size in sizes]),
        Line("their indexes", [_events(size, indexes=True) for size in sizes]),
        Line("heads, keys", [_tables(size, LOG[1:]) for size in sizes]),
        Line(
            "views", [_tables(size, [n for n in size["sizes"] if n not in LOG]) for size in sizes]
        ),
    ]
    name = "runs in the log, 9 events each (logarithmic)"
    return page(
        [
            Chart("Requests, median", "ms", name, runs, requests),
            Chart("Requests against a log of 200 runs", "ratio of medians", name, runs, ratios),
            Chart("On disk", "GB (logarithmic)", name, runs, disk, logarithmic=True),
            Chart("The whole log", "s (logarithmic)", name, runs, work, logarithmic=True),
        ],
        columns=2,
    )


def _events(size: dict[str, Any], *, indexes: bool) -> float:
    table = size["sizes"]["stored_events"]
    held = sum(table["indexes"].values()) if indexes else table["rows"] + table["out_of_line"]
    return float(held) / GIGABYTE


def _tables(size: dict[str, Any], names: "tuple[str, ...] | list[str]") -> float:
    tables = [size["sizes"][name] for name in names]
    held = sum(one["rows"] + one["out_of_line"] + sum(one["indexes"].values()) for one in tables)
    return float(held) / GIGABYTE


if __name__ == "__main__":
    sys.exit(main())
