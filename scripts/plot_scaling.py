#!/usr/bin/env python3
"""Make docs/scaling.svg, and the tables in docs/scaling.md, of docs/scaling.json.

`.venv/bin/python scripts/plot_scaling.py`; the JSON is what `scripts/bench scale --write` measured.
With --check nothing is written: exit 1 if plot or tables are not what the JSON makes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from scaling.chart import Chart, Line, page
from scaling.tables import LOG, REQUESTS, tables

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
BEGIN: Final = "<!-- made by scripts/plot_scaling.py: begin -->\n"
END: Final = "<!-- made by scripts/plot_scaling.py: end -->"
GIGABYTE: Final = 1e9


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/plot_scaling.py", description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS, help="where scaling.* are")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if they differ")
    options = parser.parse_args()
    svg, text = options.docs / "scaling.svg", options.docs / "scaling.md"
    try:
        measured = json.loads((options.docs / "scaling.json").read_text("utf-8"))
        made = {
            svg: plot(measured["sizes"]),
            text: _with_tables(text.read_text("utf-8"), measured),
        }
        stale = [file for file, content in made.items() if _there(file) != content]
    except (OSError, ValueError, LookupError) as error:
        print(f"plot_scaling: cannot be made: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if options.check:
        for file in stale:
            print(f"plot_scaling: {file.name} is not what scaling.json makes", file=sys.stderr)
        return int(bool(stale))
    for file in stale:
        file.write_text(made[file], "utf-8")
    return 0


def plot(sizes: list[dict[str, Any]]) -> str:
    """`sizes`: one object a size, smallest first."""
    runs = [size["runs"] for size in sizes]
    requests, ratios = (
        [
            Line(told, [size["requests"][name][figure] for size in sizes])
            for name, told in REQUESTS.items()
        ]
        for figure in ("p50_ms", "ratio")
    )
    work = [
        Line("rebuild of all", [size["rebuild_seconds"] for size in sizes]),
        Line("verify all", [size["verify_seconds"] for size in sizes]),
    ]
    disk = [
        Line("events", [_events(size, indexes=False) for size in sizes]),
        Line("their indexes", [_events(size, indexes=True) for size in sizes]),
        Line("heads, keys", [_tables(size, LOG[1:]) for size in sizes]),
        Line("views", [_tables(size, set(size["sizes"]) - set(LOG)) for size in sizes]),
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


def _with_tables(text: str, measured: dict[str, Any]) -> str:
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + tables(measured["sizes"], measured["machine"]) + "\n" + END + after


def _there(file: Path) -> str:
    return file.read_text("utf-8") if file.exists() else ""


def _events(size: dict[str, Any], *, indexes: bool) -> float:
    table = size["sizes"]["stored_events"]
    held = sum(table["indexes"].values()) if indexes else table["rows"] + table["out_of_line"]
    return float(held) / GIGABYTE


def _tables(size: dict[str, Any], names: "set[str] | tuple[str, ...]") -> float:
    found = [size["sizes"][name] for name in names]
    held = sum(one["rows"] + one["out_of_line"] + sum(one["indexes"].values()) for one in found)
    return float(held) / GIGABYTE


if __name__ == "__main__":
    sys.exit(main())
