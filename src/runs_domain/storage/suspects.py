"""Appends that may be what breaks the connection: a crash of the server's, a pooler's limit.

A server that is away breaks connections too, so one break proves nothing. What does: the append
was alone, its connection broke with no answer, and the server then answered that nothing landed,
many times in a row.

An append is known by its run and its events' types. That outlives a caller who stops waiting and
comes again, and a job that is given back and makes the same step anew, at another version.
"""

from collections.abc import Iterable
from typing import Final

from runs_domain.ids import RunId
from runs_domain.storage.batch_call import Encoded

BREAKS_MAX: Final = 8
"""More than restarts of the server that may happen to meet one append in a row."""
SUSPECTS_MAX: Final = 1024
"""The oldest are forgotten beyond: it takes them more tries to be told."""

_Key = tuple[RunId, tuple[str, ...]]


class Suspects:
    def __init__(self) -> None:
        self._breaks: dict[_Key, int] = {}

    def __contains__(self, append: Encoded) -> bool:
        return bool(self._breaks) and _key(append) in self._breaks

    def suspect(self, append: Encoded) -> None:
        """It was in doubt; nothing landed."""
        self._note(_key(append), 0)

    def broke(self, append: Encoded) -> bool:
        """Alone, it broke its connection, and the server is there. True = so often that it always
        will; it is then told, and forgotten."""
        key = _key(append)
        if self._breaks.get(key, 0) + 1 >= BREAKS_MAX:
            self._breaks.pop(key, None)
            return True
        self._note(key, 1)
        return False

    def clear(self, appends: Iterable[Encoded]) -> None:
        """The server answered to them."""
        if self._breaks:
            for append in appends:
                self._breaks.pop(_key(append), None)

    def _note(self, key: _Key, more: int) -> None:
        self._breaks[key] = self._breaks.pop(key, 0) + more  # the newest come last
        while len(self._breaks) > SUSPECTS_MAX:
            del self._breaks[next(iter(self._breaks))]


def _key(append: Encoded) -> _Key:
    return append.append.run_id, tuple(piece.tag for piece in append.pieces)
