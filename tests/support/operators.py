"""The scripts of operators, run as they run them, and other programs of ours."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.log_streams import SECRET
from tests.support.servers import Database

SCRIPTS: Final = Path(__file__).parents[2] / "scripts"
SCRIPT_SECONDS_MAX: Final = 30.0
BARE_PYTHON: Final = Path(sys.executable).resolve()
"""The one that the environment was made of: it has no packages of ours."""
NO_REDIS: Final = "redis://127.0.0.1:1/0"
"""Where nobody answers."""


def environment_of(
    database: Database,
    redis_url: str = NO_REDIS,
    *,
    owner: bool = False,
    secret: str = SECRET,
    **more: str,
) -> dict[str, str]:
    """All that a script is told; `owner`: also how to get in as the tables' owner."""
    return {
        "PATH": os.environ["PATH"],
        "RUNLEDGER_DATABASE_URL": database.url,
        "RUNLEDGER_REDIS_URL": redis_url,
        "RUNLEDGER_SECRET": secret,
        **({"RUNLEDGER_ADMIN_DATABASE_URL": database.admin_url} if owner else {}),
        **more,
    }


def run_program(
    argv: Sequence[object],
    *,
    env: Mapping[str, str],
    seconds_max: float = SCRIPT_SECONDS_MAX,
    **more: Any,
) -> "subprocess.CompletedProcess[str]":
    """To its end, with no other environment than `env`; `more` as `subprocess.run` takes it."""
    return subprocess.run(  # noqa: S603 - our own argv
        [str(one) for one in argv],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds_max,
        **more,
    )


@contextmanager
def started_program(
    argv: Sequence[object], *, env: Mapping[str, str], **more: Any
) -> "Iterator[subprocess.Popen[str]]":
    """Under way; it is killed if it has not ended when the test has."""
    with subprocess.Popen(  # noqa: S603 - our own argv
        [str(one) for one in argv],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def run_script(
    name: str,
    *arguments: object,
    env: Mapping[str, str],
    seconds_max: float = SCRIPT_SECONDS_MAX,
    **more: Any,
) -> "subprocess.CompletedProcess[str]":
    """`scripts/<name>`."""
    argv = [sys.executable, SCRIPTS / name, *arguments]
    return run_program(argv, env=env, seconds_max=seconds_max, **more)


def started_script(
    name: str, *arguments: object, env: Mapping[str, str], **more: Any
) -> "AbstractContextManager[subprocess.Popen[str]]":
    return started_program([sys.executable, SCRIPTS / name, *arguments], env=env, **more)


def run_bare(
    *arguments: object, env: Mapping[str, str] | None = None, **more: Any
) -> "subprocess.CompletedProcess[str]":
    """A Python with no packages, and with no environment if none is given."""
    return run_program([BARE_PYTHON, "-S", *arguments], env=env or {}, **more)
