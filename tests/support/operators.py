"""The scripts of operators, run as they run them."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SCRIPTS: Final = Path(__file__).parents[2] / "scripts"
SCRIPT_SECONDS_MAX: Final = 30.0


def run_script(
    name: str,
    *arguments: str,
    env: Mapping[str, str],
    seconds_max: float = SCRIPT_SECONDS_MAX,
) -> "subprocess.CompletedProcess[str]":
    """`scripts/<name>` to its end, with no other environment than `env`."""
    return subprocess.run(  # noqa: S603 - our own argv
        [sys.executable, str(SCRIPTS / name), *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds_max,
    )


@contextmanager
def started_script(
    name: str, *arguments: str, env: Mapping[str, str]
) -> "Iterator[subprocess.Popen[str]]":
    """`scripts/<name>`, under way; it is killed if it has not ended when the test has."""
    with subprocess.Popen(  # noqa: S603 - our own argv
        [sys.executable, str(SCRIPTS / name), *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        try:
            yield script
        finally:
            script.kill()
