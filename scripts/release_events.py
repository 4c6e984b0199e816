"""Hold what was released of the stored events: it is read for ever, so it never changes in place.

usage: .venv/bin/python scripts/release_events.py [--check]

`tests/domain/released.json` has the shape of the envelope and of every tag that was ever released,
and a hash of each file of the corpus. Without an argument what is new is added to it, and the
tables of docs/events.md are written anew; what was released is never changed or dropped, not even
by this script. With --check, which CI runs, nothing is written.

Exit 0: all is as released. 1: something is not, a sentence each. 2: bad arguments.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from runs_domain.errors import UnknownEvent
from runs_domain.events import TYPES
from runs_domain.upcast import RULES, newest_tag

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts.released import (  # noqa: E402 - from where they are
    event_shapes,
    event_tables,
    lock_history,
)
from scripts.released.event_shapes import Shape  # noqa: E402

LOCK: Final = Path("tests/domain/released.json")
CORPUS: Final = Path("tests/domain/history")
DOCUMENT: Final = Path("docs/events.md")
UNDO: Final = "undo it, or store the new shape under a new tag (docs/events.md)"
RUN_ME: Final = "run .venv/bin/python scripts/release_events.py and commit what it writes"

Lock: TypeAlias = dict[str, dict[str, Any]]
"""`envelope`: a shape. `events`: a shape by tag. `corpus`: SHA-256 (hex) by file name."""


def current(root: Path = ROOT) -> Lock:
    files = sorted((root / CORPUS).glob("*.json"))
    return {
        "envelope": event_shapes.envelope(),
        "events": event_shapes.events(),
        "corpus": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    }


def read_lock(root: Path = ROOT) -> Lock:
    lock: Lock = json.loads((root / LOCK).read_text("utf-8"))
    return lock


# ------------------------------------------------------------------------------ what is wrong


def broken(released: Lock, now: Lock) -> Iterator[str]:
    """What no release may do, a sentence each: nothing can be added to make it right."""
    yield from _changes("the envelope", released["envelope"], now["envelope"])
    for tag, shape in released["events"].items():
        if tag in now["events"]:
            yield from _changes(tag, shape, now["events"][tag])
        else:
            try:
                newest_tag(tag)
            except UnknownEvent as error:
                yield f"{tag} was released and cannot be read any more ({error}): {UNDO}"
    for name, digest in released["corpus"].items():
        if name not in now["corpus"]:
            yield f"{CORPUS / name} was released and is gone: files are only added; bring it back"
        elif now["corpus"][name] != digest:
            yield f"{CORPUS / name} was released and has changed: undo it, and add a file instead"
    for tag, shape in now["events"].items():
        for name, field in shape.items():
            if field.get("sealed") and "default" not in field:
                yield f"{tag}: field {name} is sealed, so it needs a default: it may be erased"


def missing(released: Lock, now: Lock, root: Path = ROOT) -> Iterator[str]:
    """What is new and not yet in the lock or in the corpus."""
    for part, what in (("events", ""), ("corpus", f"{CORPUS}/")):
        for name in now[part].keys() - released[part].keys():
            yield f"{what}{name} is new: {RUN_ME}"
    stored = tags_of_corpus(root)
    for tag in sorted(({*TYPES, *RULES, *released["events"]}) - stored):
        yield f"{tag} stands in no file of {CORPUS}: add one (docs/events.md)"


def _changes(what: str, released: Shape, now: Shape) -> Iterator[str]:
    for path, said in event_shapes.differences(released, now):
        yield f"{what}: field {path} {said}: {UNDO}"


def tags_of_corpus(root: Path = ROOT) -> set[str]:
    return {
        event["type"]
        for file in (root / CORPUS).glob("*.json")
        for event in json.loads(file.read_bytes())
    }


# ------------------------------------------------------------------------------ the script


def added(released: Lock, now: Lock) -> Lock:
    """Every entry as it was released, and the new ones."""
    return {
        "envelope": released["envelope"] or now["envelope"],
        "events": dict(sorted((now["events"] | released["events"]).items())),
        "corpus": dict(sorted((now["corpus"] | released["corpus"]).items())),
    }


def write(root: Path, lock: Lock) -> None:
    text = json.dumps(lock, indent=1, ensure_ascii=False) + "\n"
    (root / LOCK).write_text(text, "utf-8")
    document = root / DOCUMENT
    document.write_text(event_tables.filled(document.read_text("utf-8"), lock), "utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="release_events.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(arguments).check
    released, now = read_lock(), current()
    wrong = [*broken(released, now), *lock_history.edits(ROOT, LOCK, released)]
    if not lock_history.is_there(ROOT, LOCK):
        print("release_events.py: without git's history an edit of the lock itself goes unseen")
    if not wrong and not check:
        write(ROOT, added(released, now))
        released = read_lock()
    wrong += missing(released, now)
    text = (ROOT / DOCUMENT).read_text("utf-8")
    if not wrong and event_tables.filled(text, added(released, now)) != text:
        wrong.append(f"the tables of {DOCUMENT} are not the code's: {RUN_ME}")
    for sentence in sorted(wrong):
        print(f"release_events.py: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
