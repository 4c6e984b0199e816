"""Long text behind a small window: only the lines that are shown are ever made."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from replaying.safe_text import wrapped
from rich.text import Text


class Block(NamedTuple):
    style: str
    text: Callable[[], str]
    """Called once it is shown."""


class Top(NamedTuple):
    """The first line that is shown."""

    block: int
    line: int


class Pane:
    """Blocks of text, wrapped to `columns`; `top` is moved by `scroll`."""

    def __init__(self, blocks: Sequence[Block], columns: int, *, first: int = 0) -> None:
        self._blocks = blocks
        self._columns = columns
        self._made: dict[int, list[str]] = {}
        self._left: dict[int, Iterator[str]] = {}
        self.top = Top(min(first, max(0, len(blocks) - 1)), 0)

    def shown(self, rows: int) -> list[Text]:
        lines: list[Text] = []
        block, line = self.top
        while block < len(self._blocks) and len(lines) < rows:
            text = self._line(block, line)
            if text is None:
                block, line = block + 1, 0
            else:
                lines.append(Text(text, self._blocks[block].style, no_wrap=True))
                line += 1
        return lines

    def scroll(self, lines: int) -> None:
        """Down, or up if negative; never past the first or the last line."""
        for _ in range(abs(lines)):
            following = self._after(self.top) if lines > 0 else self._before(self.top)
            if following is None:
                return
            self.top = following

    def _after(self, place: Top) -> Top | None:
        if self._line(place.block, place.line + 1) is not None:
            return Top(place.block, place.line + 1)
        return Top(place.block + 1, 0) if place.block + 1 < len(self._blocks) else None

    def _before(self, place: Top) -> Top | None:
        if place.line:
            return Top(place.block, place.line - 1)
        return None if place.block == 0 else Top(place.block - 1, self._last_line(place.block - 1))

    def _last_line(self, block: int) -> int:
        made = self._made.setdefault(block, [])
        made.extend(self._rest(block))
        return len(made) - 1

    def _line(self, block: int, line: int) -> str | None:
        made = self._made.setdefault(block, [])
        while line >= len(made):
            following = next(self._rest(block), None)
            if following is None:
                return None
            made.append(following)
        return made[line]

    def _rest(self, block: int) -> Iterator[str]:
        if block not in self._left:
            self._left[block] = wrapped(self._blocks[block].text(), self._columns)
        return self._left[block]
