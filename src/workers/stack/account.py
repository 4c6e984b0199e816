"""Whom PostgreSQL runs as: it refuses root, and initdb a user without a passwd entry."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CANDIDATES: Final = ("postgres", "nobody", "daemon")


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int


def unprivileged(data: Path) -> Account | None:
    """None for an ordinary user (no change needed); as root the owner of `data`, else a candidate.

    Raises LookupError if the machine has no such account.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return _account(pwd.getpwuid(data.stat().st_uid))
    for name in CANDIDATES:
        try:
            return _account(pwd.getpwnam(name))
        except KeyError:
            continue
    raise LookupError("PostgreSQL does not run as root, and there is none of " + str(CANDIDATES))


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
