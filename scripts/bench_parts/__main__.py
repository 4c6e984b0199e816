"""`scripts/bench`: runs the benchmarks named, or all of them, each in a process of its own.

What follows the name of one and begins with `-` is for it: `scripts/bench failover --help`.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(
    file.stem for file in HERE.glob("*.py") if not file.stem.startswith("_") and file.stem != "lib"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(NAMES))
    given = sys.argv[1:]
    cut = next((at for at, word in enumerate(given) if at and word.startswith("-")), len(given))
    options = given[cut:]
    names = parser.parse_args(given[:cut]).names or NAMES
    if options and len(names) != 1:
        parser.error(f"{' '.join(options)} is for one benchmark, not for {' '.join(names)}")
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {' '.join(NAMES)}")
    codes = [_run(name, options) for name in names]
    return max(codes)


def _run(name: str, options: Sequence[str]) -> int:
    command = [sys.executable, "-m", f"scripts.bench_parts.{name}", *options]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - one of NAMES


if __name__ == "__main__":
    sys.exit(main())
