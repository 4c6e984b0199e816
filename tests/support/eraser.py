"""The erasure's script, for tests that break it: `python -m tests.support.eraser N ACCOUNT …`.

Kills itself after the first N steps (0 = never), and waits for nobody: where no process runs,
nobody has caches, and what a test holds it does not let go of.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).parents[2]
SCRIPT_SECONDS_MAX: Final = 30.0
NEVER: Final = 0


def erase(
    *arguments: object, env: Mapping[str, str], killed_after: int = NEVER
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 - our own argv
        _argv(killed_after, *arguments),
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=SCRIPT_SECONDS_MAX,
    )


@contextmanager
def erasing(*arguments: object, env: Mapping[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """Under way; it is killed if it has not ended when the test has."""
    with subprocess.Popen(  # noqa: S603 - our own argv
        _argv(NEVER, *arguments),
        cwd=REPOSITORY,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        try:
            yield script
        finally:
            script.kill()


def _argv(killed_after: int, *arguments: object) -> list[str]:
    return [sys.executable, "-m", __name__, str(killed_after), *map(str, arguments)]


def main() -> None:
    killed_after = int(sys.argv.pop(1))
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    import erase_account  # noqa: PLC0415 - a script is no package
    import erasing as steps  # noqa: PLC0415

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
