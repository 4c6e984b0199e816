"""What has no place in a committed file: registries' hosts, machines' paths, secrets, conflicts.

Prints `file:line: what` for each find; exit 1 if there is one.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Written with classes of one letter, so that this file does not find itself.
FORBIDDEN: Final = {
    "a package registry's host": r"\b([p]ypi|[f]iles\.python[h]osted|[p]ythonhosted|deb\.[d]ebian"
    r"|[r]egistry\.np[m]js|np[m]js|[r]egistry\.yarnpkg|[c]rates|proxy\.[g]olang)\.(org|com|io)\b",
    # /home/agent is what a sandbox shows inside.
    "a path of one machine": r"(?<![\w.-])"
    r"/(home/(?!agent\b)[a-z]|root/[.\w]|Users/[A-Za-z]|wor[k]/)",
    "a private key": r"-----BEGIN [A-Z ]*PRIVAT[E] KEY-----",
    "an API key": r"\b(recoup_s[k]_[0-9A-Za-z]{30,}|sk-[A-Za-z0-9]{32,}|vcp_[A-Za-z0-9]{20,})\b",
    "a merge conflict": r"^(<{7}|>{7}) ",
}
PATTERNS: Final = {what: re.compile(pattern) for what, pattern in FORBIDDEN.items()}


def committed_files() -> list[Path]:
    """Tracked files and new ones that are not ignored."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - git is where PATH says
        capture_output=True,
        check=True,
    ).stdout.decode()
    return [path for name in names.split("\0") if name and (path := Path(name)).is_file()]


def finds(path: Path) -> Iterator[str]:
    """One sentence a find; a file that is not text has none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        return
    for number, line in enumerate(lines, 1):
        for what, pattern in PATTERNS.items():
            made_up = what == "an API key" and path.parts[0] == "tests"
            if not made_up and pattern.search(line):
                yield f"{path}:{number}: {what}"


def main() -> int:
    found = [find for path in committed_files() for find in finds(path)]
    for find in found:
        print(find)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
