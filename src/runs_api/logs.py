"""Log lines: one JSON object each, on standard error. No content, no keys, no error texts.

An exception is told by its class and where it was raised: its text may quote what it failed on.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Final

from typing_extensions import override

FIELDS: Final = ("request", "account", "run", "ms")
FRAMES_MAX: Final = 8
LINES_MAX: Final = 60


class JsonLines(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None))}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _told(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def _told(error: BaseException) -> list[str]:
    """The class of the error and of its causes, each with the innermost places."""
    told: list[str] = []
    waiting = [error]
    while waiting and len(told) < LINES_MAX:
        current = waiting.pop(0)
        places = traceback.extract_tb(current.__traceback__)[-FRAMES_MAX:]
        told.append(type(current).__name__)
        told += [f"  {place.filename}:{place.lineno} {place.name}" for place in places]
        cause = current.__cause__ or current.__context__
        waiting += [] if cause is None else [cause]
        waiting += current.exceptions if isinstance(current, BaseExceptionGroup) else ()
    return told


def configure(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
