"""How far long work is, at a terminal and elsewhere."""

import io

import pytest

from scripts.operating import work_progress
from scripts.operating.work_progress import shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def do_some_work() -> None:
    with shown("program") as show:
        show.phase("plan")
        show.phase("load", total=400, done=100)
        show.note("going on")
        for _ in range(3):
            show.advance(100)
        show.phase("swap")


def test_elsewhere_each_phase_is_a_line_and_its_end_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_progress, "LINE_SECONDS", 0.0)
    do_some_work()
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line for line in lines if "/s" not in line] == [
        *("program: plan", "program: load: 100 of 400", "program: going on", "program: swap")
    ]
    first, _, last = (line for line in lines if "/s" in line)
    assert first.startswith("program: load: 200 of 400, ")
    assert first.endswith(" s left")
    assert last.startswith("program: load: 400 of 400, ")
    assert last.endswith("/s")


def test_at_a_terminal_each_phase_is_a_bar_that_is_full_when_the_next_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    do_some_work()
    text = terminal.getvalue()
    assert "program: going on" in text
    *_, plan, load, swap = (
        line for line in text.splitlines() if any(name in line for name in ("plan", "load", "swap"))
    )
    assert "plan" in plan
    assert "load" in load
    assert "400" in load
    assert "swap" in swap
