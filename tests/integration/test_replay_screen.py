"""The interactive timeline of `scripts/replay_run.py`, in a terminal of its own."""

import os
import pty
import signal
import termios
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest

from scripts.replaying.terminal import keys_in, raw_keys
from tests.support.replayed_runs import Runs, runs_without_views
from tests.support.terminals import ENTER_SCREEN, LEAVE_SCREEN, SHOW_CURSOR, Terminal, terminal
from tests.support.waiting import until_sync
from workers.stack.servers import Servers

UP, DOWN, PAGE_DOWN, HOME, END = "\x1b[A", "\x1b[B", "\x1b[6~", "\x1b[H", "\x1b[F"


@pytest.fixture(scope="module")
def runs(servers: Servers) -> Iterator[Runs]:
    with runs_without_views(servers) as made:
        yield made


def opened(runs: Runs, name: str, **size: int) -> AbstractContextManager[Terminal]:
    return terminal("replay_run.py", str(runs.ids[name]), env=runs.environment, **size)


def test_events_are_walked_through_and_panes_switched_by_keys(runs: Runs) -> None:
    with opened(runs, "completed") as shown:
        before = shown.mode()
        screen = shown.shows(" 1/12")
        assert ENTER_SCREEN in shown.written
        assert any("completed" in line and str(runs.ids["completed"]) in line for line in screen)
        assert any("cost 0.00250 USD" in line for line in screen)
        assert any("asked with 1 message" in line and "status" not in line for line in screen)
        for keys, place in ((DOWN * 3, 4), ("j", 5), (UP, 4), ("k", 3), (END, 12), ("j", 12),
                            (HOME, 1), ("\x1bOA", 1), (PAGE_DOWN, 12), ("g", 1)):  # fmt: skip
            shown.press(keys)
            shown.shows(f" {place}/12")
        shown.press("jjjj")
        assert any("3, 2 open calls" in line for line in shown.shows(" 5/12"))
        shown.press("\r")
        assert any('[bash: input-available] {"command":"true"}' in line
                   for line in shown.shows("[message]"))  # fmt: skip
        shown.press("\t")
        shown.shows("[event]")
        assert any('"type": "run.message_persisted.v1"' in line for line in shown.screen())
        shown.press("JJ")
        until_sync(lambda: not any('"type": "run.m' in line for line in shown.screen()))
        shown.press("b")
        until_sync(lambda: any('"type": "run.m' in line for line in shown.screen()))
        shown.press("\x1b[Z?x\x1b[99~")
        shown.shows("[message]")
        shown.press("q")
        assert shown.ends() == 0
        assert shown.mode() == before
        assert LEAVE_SCREEN in shown.written


def test_the_picture_follows_the_window(runs: Runs) -> None:
    with opened(runs, "completed") as shown:
        assert [len(line) for line in shown.shows(" 1/12")] == [120] * 30
        for columns, rows in ((80, 24), (40, 10), (20, 5), (200, 60), (3, 1)):
            shown.resize(columns, rows)
            until_sync(shown.screen, timeout_seconds=20)
            assert [len(line) for line in shown.screen()] == [columns] * rows
        shown.resize(80, 24)
        shown.press("j")
        assert any("╭" in line for line in shown.shows(" 2/12"))
        shown.press("q")
        assert shown.ends() == 0


@pytest.mark.parametrize(
    ("how", "code"),
    [("ctrl-c", 130), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)],
)
def test_the_terminal_is_as_it_was_whatever_ends_the_program(
    how: str | signal.Signals, code: int, runs: Runs
) -> None:
    with opened(runs, "queued") as shown:
        before = shown.mode()
        shown.shows(" 1/1")
        assert shown.mode() != before
        if isinstance(how, signal.Signals):
            shown.process.send_signal(how)
        else:
            shown.press("\x03")
        assert shown.ends() == code
        assert shown.mode() == before
        until_sync(lambda: LEAVE_SCREEN in shown.written)
        assert shown.written.rindex(SHOW_CURSOR) > shown.written.rindex(ENTER_SCREEN)
        assert "Traceback" not in shown.written


def test_neither_a_stop_key_nor_a_quit_key_leaves_the_screen_behind(runs: Runs) -> None:
    """Ctrl-Z and Ctrl-\\ would leave the shell with keys unseen and no cursor."""
    with opened(runs, "completed") as shown:
        shown.shows(" 1/12")
        shown.press("\x1a\x1cj")
        shown.shows(" 2/12")
        shown.press("q")
        assert shown.ends() == 0


def test_hostile_content_moves_nothing_on_the_screen(runs: Runs) -> None:
    with opened(runs, "hostile", columns=160) as shown:
        shown.shows(" 1/3")
        shown.press("\r")
        assert any(r"\x1b]0;owned\x07 \x1b[2J\x9b31m" in line for line in shown.shows("[message]"))
        shown.press("\rj")
        shown.shows(" 2/3")
        for text in ("\x1b]0;", "\x1b[2J", "\x9b", "\x07", "\u202e", "\u2066"):
            assert text not in shown.written
        shown.press("q")
        shown.ends()


def test_what_is_not_understood_is_shown_as_it_is_stored(runs: Runs) -> None:
    with opened(runs, "newer", columns=160) as shown:
        screen = shown.shows("run.paused.v3: not understood")
        assert any("no rule of this release knows run.paused.v3" in line for line in screen)
        shown.press("jjjjj")
        shown.shows(" 6/12")
        shown.press("\r\r")
        assert any('"type": "run.paused.v3"' in line for line in shown.shows("[event]"))
        shown.press("q")
        assert shown.ends() == 1
        assert "a newer release wrote it" in shown.written.split(LEAVE_SCREEN)[-1]


def test_erased_content_is_shown_as_erased(runs: Runs) -> None:
    with opened(runs, "erased", columns=160) as shown:
        shown.shows("an erased request")
        shown.press("\r")
        assert any("│(erased)" in line for line in shown.shows("[message]"))
        shown.press("q")
        shown.ends()


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {}])
def test_a_page_is_printed_where_a_screen_cannot_be_drawn_or_is_not_wanted(
    environment: dict[str, str], runs: Runs
) -> None:
    run_id = str(runs.ids["completed"])
    plain = () if environment else ("--plain",)
    with terminal("replay_run.py", run_id, *plain, env=runs.environment | environment) as shown:
        assert shown.ends() == 0
        until_sync(lambda: "The files are there." in shown.written.splitlines())
        assert "\x1b" not in shown.written


def test_an_error_inside_leaves_the_terminal_as_it_was() -> None:
    outer, inner = pty.openpty()
    before = termios.tcgetattr(inner)
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGWINCH)]
    with suppress(ZeroDivisionError), raw_keys(inner) as keys:
        assert termios.tcgetattr(inner) != before
        os.write(outer, b"\x1b[")
        os.write(outer, b"5~q")
        pressed: list[str] = []
        for some in keys:
            pressed += some
            if "q" in pressed:
                break
        assert pressed == ["page up", "q"]
        raise ZeroDivisionError
    assert termios.tcgetattr(inner) == before
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGWINCH)] == handlers
    os.close(outer)
    os.close(inner)


@pytest.mark.parametrize(
    ("data", "keys", "rest"),
    [
        (b"q", ["q"], b""),
        (b"\r\n\t ", ["enter", "enter", "tab", "space"], b""),
        (b"\x1b[A\x1bOB\x1b[1~\x1b[Z", ["up", "down", "home", "back tab"], b""),
        (b"j\x1b", ["j"], b"\x1b"),
        (b"\x1b[1;2", [], b"\x1b[1;2"),
        (b"\x1bO", [], b"\x1bO"),
        (b"\x1b[1;2Bk", ["J", "k"], b""),
        (b"\x1b[200~j\x1bq", ["j", "q"], b""),
        ("é漢".encode(), [], b""),
        (b"", [], b""),
    ],
)
def test_keys_are_read_from_the_bytes_that_terminals_send(
    data: bytes, keys: list[Any], rest: bytes
) -> None:
    assert keys_in(data) == (keys, rest)
