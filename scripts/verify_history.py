#!/usr/bin/env python3
"""Check that histories are as they were written: `scripts/verify_history.py --all`.

Of each run: every stored event is whole and binds the one before by its hash, versions have no
hole, and what happened may happen, one event after another; the run's head says what its stream
says. The first bad event of a run is named. Nothing is changed and nobody is in the way; works
with the processes' RUNLEDGER_DATABASE_URL, and content stays sealed. Run it with .venv/bin/python.

With --bundle DIR it checks an exported history instead: no database, no packages, any Python from
3.11 on (`python3 -S scripts/verify_history.py --bundle DIR`).

What a chain of hashes cannot show: a tail that was cut off together with its head, a run that was
taken away with its head, and a history that was written anew with new hashes by somebody who may
write to the log, as long as it is one that could have happened. What is in sealed content is
looked at by check_invariants.py.

Exit 0: nothing is wrong. 1: something is. 2: could not look, or not at everything (an unknown run,
a database that is away, events of a newer release).
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

WORKERS_MAX = 32
SHOWN = 20
SHOWN_MAX = 1_000_000


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    ways = (
        bool(options.runs),
        options.all,
        options.account is not None,
        options.bundle is not None,
    )
    if sum(ways) != 1:
        parser.error("say what to check: runs by their ids, --account, --all or --bundle")
    if options.after is not None and options.bundle is None:
        parser.error("--after goes with --bundle")
    # Only now that it is known what is wanted: a bundle is checked without any package.
    if options.bundle is not None:
        sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))
    part = Path("verify_log.py" if options.bundle is None else "bundle_check/verify.py")
    if not (Path(__file__).resolve().parent / part).is_file():
        # An auditor's copy has what a bundle's check needs, no more.
        parser.exit(2, f"verify_history: could not look: {part} is not beside it\n")
    code: int = importlib.import_module(".".join(part.with_suffix("").parts)).verify(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/verify_history.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", type=UUID, help="ids of runs")
    parser.add_argument("--all", action="store_true", help="every run of the log")
    parser.add_argument("--account", type=UUID, help="the runs whose heads name this account")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="an exported history")
    parser.add_argument(
        "--after", type=Path, metavar="DIR", help="an earlier bundle that this one is to go on from"
    )
    parser.add_argument(
        "--workers",
        type=_whole(1, WORKERS_MAX),
        default=2,
        help="processes that check at once (default: %(default)s)",
    )
    parser.add_argument(
        "--show",
        type=_whole(0, SHOWN_MAX),
        default=SHOWN,
        help="bad events to name (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    def whole(given: str) -> int:
        if not (given.isascii() and given.isdecimal() and least <= int(given[:19]) <= most):
            raise argparse.ArgumentTypeError(f"it takes {least} to {most}")
        return int(given[:19])

    return whole


if __name__ == "__main__":
    sys.exit(main())
