"""dev.json: everything a client, a worker by hand or an ops script needs to join a stack.

It is there from ready to stop, and rewritten when a process of the stack dies or is started again:
`pids` names the stack's processes that run, in `workers` those workers that it started itself.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "dev.json"


def write(data_dir: Path, details: Mapping[str, Any]) -> Path:
    """Whole or not at all, 0600: it holds keys and passwords."""
    path = data_dir / NAME
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(details, file, indent=2)
        file.write("\n")
    unfinished.rename(path)
    return path


def remove(data_dir: Path) -> None:
    (data_dir / NAME).unlink(missing_ok=True)
