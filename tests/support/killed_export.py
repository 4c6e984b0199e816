"""Exports that are killed at each step in turn, and gone on with: `python -m` with a work order.

The order (JSON on stdin): argv, out, steps, part_events, page_events. The script is loaded once;
each start is a fork, so that hundreds of ends take seconds. For each number of steps an export is
killed there (of a write, after half of it), another one goes on, and the bundle that is then there
is hashed. Prints one JSON list: [what was done when it was killed, hash].
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[2] / "scripts"
STEPS = ("open", "write", "fsync", "ftruncate", "rename", "mkdir", "fchmod")


def main() -> None:
    order = json.load(sys.stdin)
    sys.path.insert(0, str(SCRIPTS))
    import export_history  # noqa: PLC0415 - only now it can be found
    import exporting.writer as writer  # noqa: PLC0415, PLR0402

    from runs_domain.storage import export_reads  # noqa: PLC0415

    writer.PART_EVENTS_MAX = order["part_events"]
    export_reads.PAGE_EVENTS_MAX = order["page_events"]
    export_reads.PAGE_HEADS_MAX = 2
    sys.argv = ["export_history.py", *order["argv"]]
    out = Path(order["out"])
    ends = []
    for steps in order["steps"]:
        shutil.rmtree(out, ignore_errors=True)
        did = _killed(export_history.main, out, steps)
        if did is None:
            break
        ends.append([did, None if _started(export_history.main) else _hash_of(out)])
    json.dump(ends, sys.stdout)


def _killed(work: Callable[[], int], out: Path, steps: int) -> str | None:
    """What it was doing; None if it came to its end before."""
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.close(told)
        _count(steps, str(out), tell)
        os._exit(work())
    os.close(tell)
    with os.fdopen(told) as pipe:
        did = pipe.read()
    _, status = os.waitpid(child, 0)
    return did if os.WIFSIGNALED(status) else None


def _started(work: Callable[[], int]) -> int:
    child = os.fork()
    if not child:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _count(steps: int, out: str, tell: int) -> None:
    """Of this process: the step after so many is its last."""
    left = steps

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            nonlocal left
            if name in {"open", "mkdir"} and not str(given[0]).startswith(out):
                return real(*given, **named)
            if left == 0:
                if name == "write":
                    real(given[0], given[1][: len(given[1]) // 2])
                os.writev(tell, [name.encode()])
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*given, **named)

        return step

    for name in STEPS:
        setattr(os, name, counted(name, getattr(os, name)))


def _hash_of(out: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(out.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
