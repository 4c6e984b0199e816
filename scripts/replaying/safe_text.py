"""Text that people and models wrote, as a terminal may be given it.

What could move the cursor, change colours, ring, retitle the window, turn the reading direction
round or hide itself is shown by its number, so that it can be seen and does nothing. Joiners and
selectors of a glyph's form stay: some languages cannot be written without them.
"""

import re
from collections.abc import Iterator
from typing import Final

from rich.cells import get_character_cell_size

TAB: Final = "    "
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff]"
)


def safe_line(text: str) -> str:
    """One line, whatever is in it."""
    return _UNSAFE.sub(_numbered, text.replace("\t", TAB)) if _UNSAFE.search(text) else text


def safe_text(text: str) -> str:
    """With its line ends."""
    return "\n".join(map(safe_line, text.split("\n")))


def safe_json(text: str) -> str:
    """The same JSON value: such characters stand in strings alone, where JSON can number them."""
    return _UNSAFE.sub(_json_numbered, text)


def wrapped(text: str, columns: int) -> Iterator[str]:
    """Lines that fit, broken at spaces where there are some; made as they are asked for."""
    for line in text.split("\n"):
        yield from _wrapped_line(safe_line(line), max(1, columns))


def _wrapped_line(line: str, columns: int) -> Iterator[str]:
    begin = 0
    while True:
        end = _fitting(line, begin, columns)
        if end == len(line):
            yield line[begin:]
            return
        space = line.rfind(" ", begin + 1, end + 1)
        yield line[begin : end if space < 0 else space]
        begin = end if space < 0 else space + 1


def _fitting(line: str, begin: int, columns: int) -> int:
    """The end of what fits into so many columns, one character at least."""
    piece = line[begin : begin + columns]
    if piece.isascii():
        return begin + len(piece)
    used = 0
    for place, character in enumerate(piece):
        used += get_character_cell_size(character)
        if used > columns:
            return begin + max(1, place)
    return begin + len(piece)


def _numbered(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code <= 0xFF:  # noqa: PLR2004 - two digits
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - four digits


def _json_numbered(found: re.Match[str]) -> str:
    if found[0] == "\n":
        return found[0]
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
