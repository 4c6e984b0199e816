"""Whether somebody edited the lock of released events by hand: git knows how it was.

Each entry counts as it stood when it first came to the main branch. What a branch of one's own has
added may still change until it is merged. In a shallow clone only what is there can be compared.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

MAIN: Final = ("refs/heads/main", "refs/remotes/origin/main")
GIT_SECONDS_MAX: Final = 30.0


def edits(root: Path, lock: Path, now: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A sentence for each entry that is not what it was; none where there is no history."""
    for part, entries in _first_of_each(root, lock).items():
        for name, entry in entries.items():
            found = now.get(part, {}).get(name)
            if found != entry:
                what = "was dropped from it" if found is None else "was changed in it"
                yield f"{lock}: {part} {name} {what} by hand: bring back what git has"


def is_there(root: Path, lock: Path) -> bool:
    """Whether git knows anything of the lock."""
    return bool(_commits(root, lock))


def _first_of_each(root: Path, lock: Path) -> dict[str, dict[str, Any]]:
    first: dict[str, dict[str, Any]] = {}
    for commit in _commits(root, lock):
        text = _git(root, "show", f"{commit}:{lock}")
        for part, entries in json.loads(text or "{}").items():
            first[part] = entries | first.get(part, {})
    return first


def _commits(root: Path, lock: Path) -> list[str]:
    """Those of the main branch that touched the lock, the oldest first."""
    known = [ref for ref in MAIN if _git(root, "rev-parse", "--verify", "--quiet", ref)]
    line = _git(
        root,
        *("log", "--first-parent", "--reverse", "--format=%H", known[0] if known else "HEAD"),
        *("--", str(lock)),
    )
    return (line or "").split()


def _git(root: Path, *arguments: str) -> str | None:
    """What it printed; None if it could not: no repository, no git, no such thing in it."""
    try:
        done = subprocess.run(  # noqa: S603 - arguments of our own
            ["git", *arguments],  # noqa: S607 - git is where PATH says
            cwd=root,
            capture_output=True,
            timeout=GIT_SECONDS_MAX,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.decode() if done.returncode == 0 else None
