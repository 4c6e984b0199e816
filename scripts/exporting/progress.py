"""How far an export has come, for who watches it on a terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar


class Progress:
    """The runs passed tell how long it will take: how many events they have is not known before."""

    def __init__(self, runs: int, passed: int, events: int) -> None:
        """`passed` and `events`: what an earlier start of the same export has done."""
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("export"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("runs, {task.fields[events]} events, {task.fields[pace]} events/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._events_before = events
        self._task = self._bar.add_task("", total=runs, completed=passed, events=events, pace="-")

    def show(self, passed: int, events: int) -> None:
        elapsed = self._bar.tasks[0].elapsed or 0.0
        pace = f"{(events - self._events_before) / elapsed:,.0f}" if elapsed else "-"
        self._bar.update(self._task, completed=passed, events=f"{events:,}", pace=pace)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
