"""What test and worker processes tell each other about jobs: files in one folder, never Redis.

A job's plan is `end` (at once), `hold` (until its gate is opened), `work <seconds>`, or `block`
(keep the event loop busy until then, and end once it `may_leave`). Notes are one line each.
"""

from pathlib import Path
from typing import NamedTuple
from uuid import UUID

TICK = "tick"
"""The id under which a tick of cron is planned and noted."""
EVERY = "every"


def job_id(number: int) -> str:
    return str(UUID(int=number))


class Note(NamedTuple):
    name: str
    job_id: str
    what: str


class JobDesk:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def plan(self, what: str, of: str = EVERY) -> None:
        self._file("plan", of).write_text(what)

    def plan_of(self, one: str) -> tuple[str, float]:
        """What to do and, for `work`, for how many seconds."""
        for name in (one, EVERY):
            if self._file("plan", name).exists():
                what, _, seconds = self._file("plan", name).read_text().partition(" ")
                return what, float(seconds or 0)
        return "end", 0.0

    def open(self, one: str) -> None:
        self._file("gate", one).touch()

    def is_open(self, one: str) -> bool:
        return self._file("gate", one).exists()

    def let_leave(self) -> None:
        """Jobs that were blocked may end."""
        self._file("leave", EVERY).touch()

    def may_leave(self) -> bool:
        return self._file("leave", EVERY).exists()

    def note(self, name: str, one: str, what: str) -> None:
        with self._file("notes", EVERY).open("a") as notes:  # one write: lines are not mixed
            notes.write(f"{name} {one} {what}\n")

    def notes(self) -> list[Note]:
        file = self._file("notes", EVERY)
        text = file.read_text() if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a reader may be shown half of a line at a page's end
        return [Note(*line.split(" ", 2)) for line in whole.splitlines()]

    def _file(self, kind: str, of: str) -> Path:
        return self._folder / f"{kind}-{of}"
