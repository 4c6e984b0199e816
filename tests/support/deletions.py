"""Whatever in the source removes something: SQL, Redis commands, files. By pattern, by file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LOOKED_AT: Final = ("src/**/*.py", "src/**/*.lua", "src/**/*.sql", "scripts/**/*.py", "deploy/**/*")
ASIDE: Final = ("scripts/bench_parts/", "scripts/seeding/")
"""Work on servers of their own."""

_REDIS: Final = (
    "DEL|UNLINK|GETDEL|HDEL|HGETDEL|LPOP|RPOP|LREM|LTRIM|SPOP|SREM|XDEL|XACKDEL|XTRIM|ZPOPMIN|ZPOPMAX"
    "|ZREM|ZREMRANGEBY\\w+|FLUSHALL|FLUSHDB|RENAME|EXPIRE|PEXPIRE|EXPIREAT|PEXPIREAT|DELCONSUMER"
)
PATTERNS: Final = (
    re.compile(r"\b(DELETE FROM|TRUNCATE|DROP (?:TABLE|SCHEMA|DATABASE|INDEX|COLUMN|FUNCTION))\b"),
    re.compile(rf"'({_REDIS})'"),
    re.compile(
        r"(?:redis|_redis|pipe|client|connection)\.(delete|unlink|p?expire|getdel|hdel|lpop|rpop|lrem"
        r"|ltrim|rename|spop|srem|xdel|xtrim|zrem\w*|zpop\w+|flushall|flushdb)\("
    ),
    re.compile(r"\.(unlink|rmdir|rmtree)\("),
    re.compile(r"\bos\.(remove|removedirs|rename|replace)\("),
    re.compile(r"\"(rm)\""),
)


def found() -> dict[str, set[str]]:
    """By file, the words that remove: `DELETE FROM`, `XDEL`, `unlink`."""
    words: dict[str, set[str]] = {}
    for path in _files():
        for word in _words(path.read_text("utf-8")):
            words.setdefault(path.relative_to(ROOT).as_posix(), set()).add(word)
    return words


def _files() -> Iterator[Path]:
    for pattern in LOOKED_AT:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and not name.startswith(ASIDE) and "__pycache__" not in name:
                yield path


def _words(text: str) -> Iterator[str]:
    for pattern in PATTERNS:
        for match in pattern.finditer(text):
            yield match[1]
