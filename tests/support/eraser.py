"""The erasure's script, for tests that break it: `python -m tests.support.eraser N ACCOUNT …`.

Kills itself after the first N steps (0 = never), and waits for nobody: where no process runs,
nobody has caches, and what a test holds it does not let go of.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from tests.support.operators import SCRIPTS, run_program, started_program

REPOSITORY: Final = SCRIPTS.parent
NEVER: Final = 0


def erase(
    *arguments: object, env: Mapping[str, str], killed_after: int = NEVER
) -> "subprocess.CompletedProcess[str]":
    return run_program(_argv(killed_after, *arguments), env=env, cwd=REPOSITORY)


def erasing(
    *arguments: object, env: Mapping[str, str]
) -> "AbstractContextManager[subprocess.Popen[str]]":
    """Under way; it is killed if it has not ended when the test has."""
    return started_program(_argv(NEVER, *arguments), env=env, cwd=REPOSITORY)


def _argv(killed_after: int, *arguments: object) -> list[object]:
    return [sys.executable, "-m", __name__, killed_after, *arguments]


def main() -> None:
    killed_after = int(sys.argv.pop(1))
    sys.path.insert(0, str(SCRIPTS))
    import erase_account  # noqa: PLC0415 - a script is no package
    from erasing import steps  # noqa: PLC0415

    steps.Erasing.__init__.__kwdefaults__["cached_seconds"] = 0.0
    steps.SNAPSHOT_SECONDS_MAX = 1.0
    steps.BUSY_TRIES_MAX = 1

    async def die(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if killed_after != NEVER:
        erase_account.STEPS = (*steps.STEPS[:killed_after], die)
    erase_account.leave_with(erase_account.main)


if __name__ == "__main__":
    main()
