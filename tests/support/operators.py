"""The scripts of operators, run as they run them."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SCRIPTS: Final = Path(__file__).parents[2] / "scripts"
SCRIPT_SECONDS_MAX: Final = 30.0


def run_script(
    name: str, *arguments: str, env: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """`scripts/<name>` to its end, with no other environment than `env`."""
    return subprocess.run(  # noqa: S603 - our own argv
        [sys.executable, str(SCRIPTS / name), *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=SCRIPT_SECONDS_MAX,
    )
