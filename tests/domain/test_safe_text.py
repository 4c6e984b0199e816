"""Text of strangers on a terminal, and long text behind a small window."""

import json
import sys
import unicodedata
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from scripts.replaying.safe_text import safe_json, safe_line, safe_text, wrapped
from tests.support.operators import SCRIPTS

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))
UNSAFE_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
TURNS_DIRECTION = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
KEPT_BY_LANGUAGES = {"\u200c", "\u200d", "\u180b", "\ufe0f", "\U000e0100"}
"""Joiners, and selectors of a glyph's form."""
UNSEEN = (
    *("\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060\u2064\u206f\u3164\ufeff\uffa0"),
    *("\ufff0\ufff8\U0001bca0\U0001bca3\U0001d173\U0001d17a\U000e0000\U000e0080\U000e0fff"),
)
"""Ends of the ranges that Unicode calls default-ignorable: nothing is drawn for them."""


def is_unsafe(character: str) -> bool:
    return (
        unicodedata.category(character) in UNSAFE_CATEGORIES
        or unicodedata.bidirectional(character) in TURNS_DIRECTION
    )


@given(ANYTHING)
def test_no_character_that_does_something_gets_through(text: str) -> None:
    assert not any(map(is_unsafe, safe_line(text)))
    assert not any(map(is_unsafe, safe_text(text).replace("\n", "")))
    assert safe_text(text).count("\n") == text.count("\n")
    assert safe_line(safe_line(text)) == safe_line(text)


def test_every_character_there_is_was_looked_at() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = safe_line(everything)
    assert not any(map(is_unsafe, shown))
    assert not any(one in shown for one in UNSEEN)
    for one in ("a", "é", "漢", "🙂", "\\", "~", *KEPT_BY_LANGUAGES):
        assert safe_line(one) == one
    assert safe_line("\x1b[2J\u202e\t\U000e0041") == r"\x1b[2J\u202e    \U000e0041"


@given(ANYTHING.map(lambda text: "".join(one for one in text if not "\ud800" <= one <= "\udfff")))
def test_json_made_safe_has_the_same_value(text: str) -> None:
    value = {text: [text, 1]}
    shown = safe_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(shown) == value
    assert not any(map(is_unsafe, shown.replace("\n", "")))


@given(ANYTHING, st.integers(2, 20))
def test_wrapped_lines_fit_and_leave_out_nothing_but_spaces(text: str, columns: int) -> None:
    lines = list(wrapped(text, columns))
    assert all(cell_len(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == safe_text(text).replace("\n", "").replace(" ", "")


def test_lines_break_at_spaces_where_there_are_some() -> None:
    assert list(wrapped("one two three\n\nfour", 8)) == ["one two", "three", "", "four"]
    assert list(wrapped("漢字情報 漢字", 8)) == ["漢字情報", "漢字"]
    assert list(wrapped("abcdefghij", 4)) == ["abcd", "efgh", "ij"]
    assert list(wrapped("漢字", 1)) == ["漢", "字"]


# ------------------------------------------------------------------------------ the pane


@pytest.fixture
def pane(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module as its script imports it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from replaying import pane  # type: ignore[import-not-found] # noqa: PLC0415

    yield pane
    for name in ("replaying", "replaying.pane", "replaying.safe_text"):
        sys.modules.pop(name, None)


def test_only_what_is_shown_is_ever_made(pane: ModuleType) -> None:
    made: list[int] = []

    def text(number: int) -> Callable[[], str]:
        def make() -> str:
            made.append(number)
            return f"block {number} " + "word " * 100_000

        return make

    shown = pane.Pane([pane.Block("", text(number)) for number in range(1_000)], 40, first=500)
    assert shown.shown(20)[0].plain.startswith("block 500")
    shown.scroll(3)
    assert not shown.shown(20)[0].plain.startswith("block")
    assert made == [500]
    assert len(shown._made[500]) == 23
    shown.scroll(-4)
    assert made == [500, 499]


def test_a_pane_is_scrolled_to_its_ends_and_no_further(pane: ModuleType) -> None:
    blocks = [pane.Block("", lambda n=n: f"{n}a\n{n}b\n{n}c") for n in range(4)]
    shown = pane.Pane(blocks, 10)
    whole = [line.plain for line in shown.shown(100)]
    assert len(whole) == 12
    for lines, first in ((5, "1c"), (100, "3c"), (-1, "3b"), (-7, "1a"), (-100, "0a"), (1, "0b")):
        shown.scroll(lines)
        assert shown.shown(1)[0].plain == first
        assert [line.plain for line in shown.shown(100)] == whole[whole.index(first) :]
    assert pane.Pane([], 10).shown(5) == []
