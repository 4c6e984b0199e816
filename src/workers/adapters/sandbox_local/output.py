"""What is kept of a command's output: its first and its last characters."""

import codecs
from collections.abc import Callable

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Capture:
    """Bytes in, text out. Invalid UTF-8 and U+0000 (which PostgreSQL refuses) become U+FFFD."""

    def __init__(self, head_chars: int, tail_chars: int) -> None:
        self._head_max = head_chars
        self._tail_max = tail_chars
        self._head = ""
        self._tail = ""
        self._left_out = 0
        self._decode: Callable[[bytes, bool], str] = codecs.getincrementaldecoder("utf-8")(
            "replace"
        ).decode

    def add(self, piece: bytes, *, last: bool = False) -> None:
        text = self._decode(piece, last).replace("\0", REPLACEMENT)
        room = self._head_max - len(self._head)
        self._head += text[:room]
        tail = self._tail + text[room:]
        excess = max(0, len(tail) - self._tail_max)
        self._left_out += excess
        self._tail = tail[excess:]

    @property
    def truncated(self) -> bool:
        return self._left_out > 0

    def text(self) -> str:
        if not self.truncated:
            return self._head + self._tail
        return f"{self._head}\n[… {self._left_out} characters left out …]\n{self._tail}"
