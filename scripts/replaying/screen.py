"""The interactive timeline: events on one side, what each left behind on the other."""

import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from replaying.blocks import PANES, blocks_of
from replaying.pane import Pane
from replaying.replayed import NOT_UNDERSTOOD, Replay, Row, lasted, many, priced, tokens
from replaying.safe_text import safe_line
from replaying.terminal import raw_keys, undisturbed_end
from rich.box import ROUNDED
from rich.cells import set_cell_size
from rich.console import Console, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

SIDE_BY_SIDE_COLUMNS: Final = 110
BORDERED_ROWS_MIN: Final = 14
HEAD_ROWS: Final = 2
BORDER: Final = 2
BAR_COLUMNS: Final = 12
BAR_FROM_COLUMNS: Final = 64
COLOURS: Final = {
    "queue": "bright_black",
    "model": "cyan",
    "tools": "yellow",
    "takeover": "red",
    "closing": "green",
}
STATUS_COLOURS: Final = {
    "queued": "bright_black",
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
}
HELP: Final = "↑↓ events  ⏎ pane  space/b page  J/K line  q quit"


class Size(NamedTuple):
    columns: int
    rows: int


def explore(shown: Replay) -> None:
    """Until `q`. Raises KeyboardInterrupt at Ctrl-C, SystemExit at SIGTERM and SIGHUP, when the
    terminal is as it was again.
    """
    console = Console(highlight=False)
    screen = Screen(shown)

    def drawn() -> Layout:
        return screen.draw(Size(*console.size))

    with (
        raw_keys(sys.stdin.fileno()) as keys,
        Live(drawn(), console=console, screen=True, auto_refresh=False) as live,
        undisturbed_end(),
    ):
        for pressed in keys:
            if not all(screen.press(key) for key in pressed):
                return
            live.update(drawn(), refresh=True)


class Screen:
    def __init__(self, shown: Replay) -> None:
        self._shown = shown
        self._rows = shown.rows
        self._selected = 0
        self._pane_name = PANES[0]
        self._pane: Pane | None = None
        """Of the selected event; None = to be made."""
        self._pane_size = self._list_size = Size(1, 1)
        self._total = max(
            (row.moment.since_request_seconds for row in self._rows if row.moment), default=0.0
        )

    # ------------------------------------------------------------------ keys

    def press(self, key: str) -> bool:
        """False = it is enough. Keys without a meaning are ignored."""
        page = max(1, self._list_size.rows - 1)
        moves = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page}
        moves |= dict.fromkeys(("home", "g"), -len(self._rows))
        moves |= dict.fromkeys(("end", "G"), len(self._rows))
        pane_page = max(1, self._pane_size.rows - 1)
        scrolls = {"J": 1, "K": -1, "space": pane_page, "b": -pane_page}
        if key in moves:
            self._select(self._selected + moves[key])
        elif key in scrolls and self._pane is not None:
            self._pane.scroll(scrolls[key])
        elif key in {"enter", "tab", "back tab"}:
            step = -1 if key == "back tab" else 1
            following = (PANES.index(self._pane_name) + step) % len(PANES)
            self._pane_name, self._pane = PANES[following], None
        return key not in {"q", "Q"}

    def _select(self, place: int) -> None:
        place = max(0, min(place, len(self._rows) - 1))
        if place != self._selected:
            self._selected, self._pane = place, None

    # ------------------------------------------------------------------ drawing

    def draw(self, size: Size) -> Layout:
        """A whole screen of that size; every region is made as large as it will be."""
        foot_rows = 2 if self._shown.trouble else 1
        bordered = size.rows >= BORDERED_ROWS_MIN
        body = Size(size.columns, max(2, size.rows - HEAD_ROWS - foot_rows))
        if size.columns >= SIDE_BY_SIDE_COLUMNS:
            left = Size(size.columns * 11 // 20, body.rows)
            right = Size(size.columns - left.columns, body.rows)
        else:
            left = Size(size.columns, max(1, body.rows * 2 // 5))
            right = Size(size.columns, max(1, body.rows - left.rows))
        middle = Layout()
        parts = (
            Layout(self._events(left, bordered=bordered), size=self._along(size, left)),
            Layout(self._details(right, bordered=bordered), size=self._along(size, right)),
        )
        if size.columns >= SIDE_BY_SIDE_COLUMNS:
            middle.split_row(*parts)
        else:
            middle.split_column(*parts)
        whole = Layout()
        whole.split_column(
            Layout(_lines(self._head()), size=HEAD_ROWS),
            middle,
            Layout(_lines(self._foot(size.columns)), size=foot_rows),
        )
        return whole

    @staticmethod
    def _along(whole: Size, part: Size) -> int:
        return part.columns if whole.columns >= SIDE_BY_SIDE_COLUMNS else part.rows

    def _head(self) -> Iterator[Text]:
        summary = self._shown.timeline.summary
        line = Text(f" run {self._shown.run_id}  ", style="bold", no_wrap=True)
        if summary is None:
            yield line
            return
        line.append(summary.status, STATUS_COLOURS[summary.status])
        line.append(f"  {safe_line(summary.model)}", "not bold")
        yield line
        total = self._shown.timeline.totals()
        told = [
            lasted(total.seconds["total"]),
            f"cost {priced(total.cost)}",
            f"tokens {tokens(total.usage)}",
            many(total.model_calls, "model call"),
            many(total.tool_calls, "tool call"),
            many(total.attempts, "attempt"),
        ]
        yield Text(" " + " · ".join(told), no_wrap=True)

    def _foot(self, columns: int) -> Iterator[Text]:
        if self._shown.trouble:
            yield Text(f" {safe_line(self._shown.trouble)}", "red", no_wrap=True)
        place = f"{self._selected + 1}/{len(self._rows)} "
        room = max(0, columns - len(place) - 1)
        yield Text(f" {set_cell_size(HELP, room)}{place}"[:columns], "dim", no_wrap=True)

    def _events(self, size: Size, *, bordered: bool) -> RenderableType:
        inner = _inner(size, bordered=bordered)
        self._list_size = inner
        top = self._selected - inner.rows // 2
        top = max(0, min(top, len(self._rows) - inner.rows))
        digits = len(str(len(self._rows)))
        lines = (
            self._event_line(place, inner.columns, digits)
            for place in range(top, min(top + inner.rows, len(self._rows)))
        )
        return _framed(_lines(lines), "events", bordered=bordered)

    def _event_line(self, place: int, columns: int, digits: int) -> Text:
        row = self._rows[place]
        line = Text(no_wrap=True)
        line.append(f"{row.stored.version:>{digits}} ", "dim")
        if row.moment is None:
            line.append(f"{safe_line(row.stored.type)}: {NOT_UNDERSTOOD}", "red")
        else:
            moment, colour = row.moment, COLOURS[row.moment.phase]
            line.append(f"{lasted(moment.since_request_seconds):>8} ")
            line.append(f"{lasted(moment.since_previous_seconds):>8} ", colour)
            if columns >= BAR_FROM_COLUMNS:
                line.append(self._bar(row) + " ", colour)
            line.append(safe_line(moment.what))
            if moment.said:
                line.append(f"  {safe_line(moment.said)}", "italic dim")
        line.truncate(columns, overflow="ellipsis", pad=True)
        if place == self._selected:
            line.stylize("reverse")
        return line

    def _bar(self, row: Row) -> str:
        """Where in the run's time the time before this event lies."""
        if row.moment is None or not self._total:
            return " " * BAR_COLUMNS
        end = row.moment.since_request_seconds
        begin = end - row.moment.since_previous_seconds
        first = min(BAR_COLUMNS - 1, int(begin / self._total * BAR_COLUMNS))
        last = max(first + 1, round(end / self._total * BAR_COLUMNS))
        filled = "━" * (last - first) if end > begin else "╵"
        return f"{' ' * first}{filled}".ljust(BAR_COLUMNS)[:BAR_COLUMNS]

    def _details(self, size: Size, *, bordered: bool) -> RenderableType:
        inner = _inner(size, bordered=bordered)
        if self._pane is None or inner.columns != self._pane_size.columns:
            blocks, first = blocks_of(self._pane_name, self._rows[self._selected])
            self._pane = Pane(blocks, inner.columns, first=first)
        self._pane_size = inner
        names = " ".join(f"[{one}]" if one == self._pane_name else one for one in PANES)
        return _framed(_lines(self._pane.shown(inner.rows)), names, bordered=bordered)


def _inner(size: Size, *, bordered: bool) -> Size:
    less = BORDER if bordered else 0
    return Size(max(1, size.columns - less), max(1, size.rows - less))


def _framed(content: Text, title: str, *, bordered: bool) -> RenderableType:
    if not bordered:
        return content
    name = Text(f" {title} ")
    return Panel(content, title=name, title_align="left", box=ROUNDED, padding=0)


def _lines(lines: "Iterator[Text] | list[Text]") -> Text:
    return Text("\n", no_wrap=True, overflow="crop", end="").join(lines)
