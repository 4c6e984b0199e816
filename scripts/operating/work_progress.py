"""How far long work is: a bar for people at a terminal, a line now and then for everybody else.

Everything goes to stderr. The time that is left is by events done of all events, at the pace of
the last seconds.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typing_extensions import override

from runs_domain.storage.long_work import Show

LINE_SECONDS: Final = 5.0
"""Between two lines of one phase."""
PACE_SECONDS: Final = 30.0
"""What the pace is taken of."""


class _Pace(ProgressColumn):
    @override
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:,.0f}/s")


class _Bars:
    def __init__(self, program: str, progress: Progress) -> None:
        self._program = program
        self._progress = progress
        self._task: TaskID | None = None

    def phase(self, name: str, *, total: int | None = None, done: int = 0) -> None:
        self.end()
        self._task = self._progress.add_task(name, total=total, completed=done)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, count)

    def end(self) -> None:
        """Of the phase: its bar is full, whatever was expected of it."""
        if self._task is not None:
            (task,) = (one for one in self._progress.tasks if one.id == self._task)
            done = task.completed or 1
            self._progress.update(task.id, total=done, completed=done)
            self._progress.stop_task(task.id)
        self._task = None

    def note(self, sentence: str) -> None:
        self._progress.console.print(f"{self._program}: {sentence}", markup=False, highlight=False)


class _Lines:
    def __init__(self, program: str) -> None:
        self._program = program
        self._name = ""
        self._total: int | None = None
        self._done = self._begun_with = 0
        self._begun_at = self._said_at = time.monotonic()

    def phase(self, name: str, *, total: int | None = None, done: int = 0) -> None:
        self._name, self._total, self._done, self._begun_with = name, total, done, done
        self._begun_at = self._said_at = time.monotonic()
        self._say(name if total is None else f"{name}: {done:,} of {total:,}")

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        is_done = self._done == self._total
        if now - self._said_at < LINE_SECONDS and not is_done:
            return
        self._said_at = now
        pace = (self._done - self._begun_with) / max(now - self._begun_at, 1e-9)
        of = "" if self._total is None else f" of {self._total:,}"
        left = ""
        if self._total is not None and not is_done and pace > 0:
            left = f", {max(0, self._total - self._done) / pace:,.0f} s left"
        self._say(f"{self._name}: {self._done:,}{of}, {pace:,.0f}/s{left}")

    def note(self, sentence: str) -> None:
        self._say(sentence)

    def _say(self, sentence: str) -> None:
        print(f"{self._program}: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def shown(program: str) -> Iterator[Show]:
    if not sys.stderr.isatty():
        yield _Lines(program)
        return
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        _Pace(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, speed_estimate_period=PACE_SECONDS) as progress:
        bars = _Bars(program, progress)
        yield bars
        bars.end()
