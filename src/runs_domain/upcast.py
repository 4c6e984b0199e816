"""Old tags in, newest out: every consumer knows only the newest shape of an event.

A rule takes the stored mapping of one old tag and gives the next tag and mapping; rules chain.
A file of `tests/domain/history` goes with every tag that was ever released.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from runs_domain.errors import UnknownEvent
from runs_domain.events import TYPES, Json

Rule: TypeAlias = Callable[[Json], tuple[str, Json]]

RULES: Final[Mapping[str, Rule]] = {}
"""By old tag. Empty: every released tag is still the newest of its kind."""


def upcast(tag: str, data: Json, *, rules: Mapping[str, Rule] = RULES) -> tuple[str, Json]:
    """The newest tag and mapping. Raises UnknownEvent for a tag of a newer release."""
    for _ in range(len(rules) + 1):
        if tag in TYPES:
            return tag, data
        if tag not in rules:
            break
        tag, data = rules[tag](data)
    raise UnknownEvent(f"no rule of this release knows {tag}")
