"""What must not stand in clear in stored bytes, job entries or logs: keys, and canaries.

A canary is a text that a test or an operator puts into a prompt in order to look for it later.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from runs_domain.keys import BODY_CHARS, CHECKSUM_CHARS, well_formed

CANARY_CHARS_MIN: Final = 8
"""A shorter text is found by chance in a base64 text."""


class Leaks:
    def __init__(self, key_prefix: str, canaries: Sequence[str] = ()) -> None:
        """Raises ValueError for a canary that is too short to tell anything."""
        if any(len(canary) < CANARY_CHARS_MIN for canary in canaries):
            raise ValueError(f"a canary has at least {CANARY_CHARS_MIN} characters")
        self._key_prefix = key_prefix
        self._key = re.compile(
            rb"%s[0-9A-Za-z]{%d}" % (re.escape(key_prefix.encode()), BODY_CHARS + CHECKSUM_CHARS)
        )
        self.canaries: Final = tuple(canaries)
        self._forms = tuple({form for canary in canaries for form in _forms(canary)})

    @property
    def overlap_bytes(self) -> int:
        """How much of one block must be read again with the next, so that none hides between."""
        key = len(self._key_prefix.encode()) + BODY_CHARS + CHECKSUM_CHARS
        return max([key, *map(len, self._forms)])

    def found_in(self, data: bytes) -> Iterator[str]:
        """What stands in `data`: never the text itself."""
        if any(well_formed(found.decode(), self._key_prefix) for found in self._key.findall(data)):
            yield "an API key stands in clear"
        if any(form in data for form in self._forms):
            yield "a canary stands in clear"


def _forms(canary: str) -> tuple[bytes, ...]:
    """As it is, and as JSON writes it."""
    return canary.encode(), json.dumps(canary)[1:-1].encode()
