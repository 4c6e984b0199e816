"""Log lines: one JSON object each, on standard error. No content, no keys, no error texts.

An exception is told by its class and where it was raised: its text may quote what it failed on.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from typing_extensions import override

from runs_domain.faults import places

FIELDS: Final = ("request", "account", "run", "ms")


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
            line["error"] = places(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
