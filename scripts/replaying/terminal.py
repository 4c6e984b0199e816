"""The terminal as a program with a screen of its own uses it: key by key, told of a new size, and
left as it was found, whatever ends the program but a SIGKILL.
"""

import os
import select
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
READ_BYTES_MAX: Final = 1024
SEQUENCE_SECONDS_MAX: Final = 0.05
"""For the rest of a key whose first byte, an escape, has come."""
SIGNAL_EXIT_BASE: Final = 128

_ESCAPE: Final = 0x1B
_SEQUENCES: Final = {
    b"[A": "up", b"OA": "up", b"[B": "down", b"OB": "down",
    b"[H": "home", b"OH": "home", b"[1~": "home", b"[7~": "home",
    b"[F": "end", b"OF": "end", b"[4~": "end", b"[8~": "end",
    b"[5~": "page up", b"[6~": "page down", b"[Z": "back tab",
    b"[1;2A": "K", b"[1;2B": "J",
}  # fmt: skip
_NAMES: Final = {"\r": "enter", "\n": "enter", "\t": "tab", " ": "space"}
_CONTROL_INPUT: Final = termios.ICANON | termios.ECHO
_NO_CHARACTER: Final = b"\0"
_LOCAL_FLAGS, _CHARACTERS = 3, 6
"""Places in what tcgetattr gives."""


def keys_in(data: bytes) -> tuple[list[str], bytes]:
    """The keys, by name or as their character, and the bytes of one that has not come whole."""
    keys: list[str] = []
    while data:
        if data[0] != _ESCAPE:
            text = data[:1].decode("ascii", "ignore")
            keys += [_NAMES.get(text, text)] * bool(text)
            data = data[1:]
            continue
        length = _sequence_length(data[1:])
        if length is None:
            return keys, data
        name = _SEQUENCES.get(data[1 : 1 + length], "")
        keys += [name] * bool(name)
        data = data[1 + length :]
    return keys, b""


def _sequence_length(rest: bytes) -> int | None:
    """Of what follows an escape; None = there must be more."""
    if not rest:
        return None
    if rest[:1] == b"O":
        return 2 if len(rest) > 1 else None
    if rest[:1] != b"[":
        return 0  # an escape by itself, then another key
    for place, byte in enumerate(rest[1:], start=2):
        if 0x40 <= byte <= 0x7E:  # noqa: PLR2004 - the final byte of a control sequence
            return place
    return None


class Keys:
    """Made by `raw_keys`. Iterates for ever: what came since the last time, empty when the window
    has changed its size; ends when the terminal is gone.
    """

    def __init__(self, terminal: int, wake: int) -> None:
        self._terminal = terminal
        self._wake = wake

    def __iter__(self) -> Iterator[list[str]]:
        rest = b""
        while True:
            timeout = SEQUENCE_SECONDS_MAX if rest else None
            ready, _, _ = select.select([self._terminal, self._wake], [], [], timeout)
            if self._wake in ready:
                os.read(self._wake, READ_BYTES_MAX)
                yield []
            if self._terminal in ready:
                data = _read(self._terminal)
                if not data:
                    return
                keys, rest = keys_in(rest + data)
                if keys:
                    yield keys
            elif not ready:
                rest = b""  # an escape by itself


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, READ_BYTES_MAX)
    except OSError:  # the terminal was closed
        return b""


@contextmanager
def raw_keys(terminal: int) -> Iterator[Keys]:
    """The terminal's input key by key. SIGTERM, SIGHUP and Ctrl-C end the block by an exception;
    while it is left they wait, so that nothing is left half restored.
    """
    before = termios.tcgetattr(terminal)
    read_end, write_end = os.pipe()
    for end in (read_end, write_end):
        os.set_blocking(end, False)
    handlers = {one: signal.getsignal(one) for one in (*ENDING_SIGNALS, signal.SIGWINCH)}
    wake_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        for one in ENDING_SIGNALS:
            signal.signal(one, _end)
        signal.signal(signal.SIGWINCH, lambda *_: None)
        termios.tcsetattr(terminal, termios.TCSADRAIN, _key_by_key(termios.tcgetattr(terminal)))
        yield Keys(terminal, read_end)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        signal.set_wakeup_fd(wake_before)
        for one, handler in handlers.items():
            signal.signal(one, handler)
        os.close(read_end)
        os.close(write_end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)


@contextmanager
def undisturbed_end() -> Iterator[None]:
    """Around what draws: once it ends, signals wait for `raw_keys` to put everything back."""
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)


def _key_by_key(mode: list[Any]) -> list[Any]:
    mode[_LOCAL_FLAGS] &= ~_CONTROL_INPUT
    characters = mode[_CHARACTERS]
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    # Neither a stop nor a core dump may leave the screen as it is.
    characters[termios.VSUSP] = characters[termios.VQUIT] = _NO_CHARACTER
    return mode


def _end(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(SIGNAL_EXIT_BASE + number)
