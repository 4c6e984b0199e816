"""`scripts/bench`: runs the benchmarks named, or all of them, each in a process of its own."""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(
    file.stem for file in HERE.glob("*.py") if not file.stem.startswith("_") and file.stem != "lib"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(NAMES))
    names = parser.parse_args().names or NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {' '.join(NAMES)}")
    codes = [_run(name) for name in names]
    return max(codes)


def _run(name: str) -> int:
    command = [sys.executable, "-m", f"scripts.bench_parts.{name}"]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - one of NAMES


if __name__ == "__main__":
    sys.exit(main())
