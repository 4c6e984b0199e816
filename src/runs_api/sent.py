"""Whether what a reader was sent live is what an event holds: by a digest, not by keeping it."""

import hashlib
from collections.abc import Sequence

from runs_domain import frames
from runs_domain.frames import Frame, StartStep

START_STEP = frames.encode(StartStep())


class SentStep:
    """The chunks of the newest step that were sent, from its `start-step` on."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._end = 0
        self._digest = hashlib.sha256()

    def add(self, index: int, chunks: Sequence[bytes]) -> None:
        """`chunks` went out from `index` on, right after those before."""
        for place, chunk in enumerate(chunks, start=index):
            if chunk == START_STEP:
                self._first, self._digest = place, hashlib.sha256()
            self._digest.update(chunk)
        self._end = index + len(chunks)

    def is_in(self, made: Sequence[Frame], first: int) -> bool | None:
        """Whether an event's frames, which begin at index `first`, begin with what was sent of
        their step. None = not known: the reader came later than the step began.
        """
        begins = next(
            (place for place, frame in enumerate(made, first) if isinstance(frame, StartStep)), None
        )
        if begins is None or begins != self._first or self._end > first + len(made):
            return None if self._first is None or self._first < first else False
        own = hashlib.sha256()
        for frame in made[begins - first : self._end - first]:
            own.update(frames.encode(frame))
        return own.digest() == self._digest.digest()
