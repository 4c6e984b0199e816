"""What operators' scripts share. Imported first: without the packages it says how to get them."""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

PACKAGES = ("runs_domain", "msgspec", "psycopg", "redis", "rich")
READER_LEFT = 141
"""The exit code of a program whose reader, say `head`, has read enough: 128 + SIGPIPE."""
INTERRUPTED = 130


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while the script is still importing is no fault to show a traceback of."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _ended

if not all(map(find_spec, PACKAGES)):
    script = Path(sys.argv[0]).name
    print(f"{script}: run it with .venv/bin/python scripts/{script}", file=sys.stderr)
    sys.exit(2)

from runs_domain.errors import (  # noqa: E402 - now they are known to be there
    QueueUnavailable,
    RunledgerError,
    StoreUnavailable,
)
from runs_domain.settings import BadSettings, Settings, load  # noqa: E402
from runs_domain.storage.connection import ServerRefuses  # noqa: E402

ADMIN_URL = "RUNLEDGER_ADMIN_DATABASE_URL"


def leave_with(main: Callable[[], int], *, interrupted: str = "interrupted") -> None:
    """End the process with what `main` returns, without a traceback if its reader has left.

    `interrupted` is said at Ctrl-C: what is left behind, and how to go on.
    """
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whatever is still in the buffer goes nowhere: the interpreter writes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = READER_LEFT
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).stem}: {interrupted}", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


def told(heading: str, setting: str, name: str, work: Callable[[], int], *, failed: int = 1) -> int:
    """`work`'s exit code; what went wrong is one sentence after `heading`, the program's name as a
    rule, and 2 for bad settings, `failed` for the rest.

    `setting` holds the address, `name` is that of the script's connection.
    """
    try:
        return work()
    except StoreUnavailable as error:
        where = postgres_away(error, setting=setting, name=name)
        print(f"{heading}: {where}", file=sys.stderr)
        return failed
    except RunledgerError as error:
        print(f"{heading}: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadSettings) else failed


def owners_settings(why: str) -> Settings:
    """Of a script that works as the database's owner; `why` it does. Raises BadSettings."""
    settings = load(os.environ)
    if not settings.admin_database_url:
        raise BadSettings(f"{ADMIN_URL} is not set: {why}")
    return settings


def postgres_away(error: StoreUnavailable, *, setting: str, name: str) -> str:
    """A sentence for an operator; `name` is that of the script's connection.

    It says where the address stands, never the address: that holds a password.
    """
    what = "refuses" if isinstance(error, ServerRefuses) else "cannot be reached"
    return f"PostgreSQL {what} ({str(error).removeprefix(f'{name}: ')}): look at {setting}"


def redis_away(error: QueueUnavailable) -> str:
    return f"Redis cannot be reached, or refuses ({error}): look at RUNLEDGER_REDIS_URL"
