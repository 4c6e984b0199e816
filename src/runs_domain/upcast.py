"""Old tags in, newest out: every consumer knows only the newest shape of an event.

A rule takes the stored mapping of one old tag and gives the next tag and mapping; rules chain.
Fields of the mapping that are sealed may be absent: they were erased, or are not wanted. What a
rule makes is content only if it makes it of content. docs/events.md tells how to add one.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeAlias

from runs_domain.errors import UnknownEvent
from runs_domain.events import TYPES, Event, Json

Rule: TypeAlias = Callable[[Json], Json]
"""The stored fields of an old tag → those of the next. It may change and give back its own."""

RULES: Final[Mapping[str, tuple[str, Rule]]] = {}
"""Old tag → the next tag, and how to get there. Empty: every released tag is still the newest."""


def upcast(
    tag: str, data: Json, *, rules: Mapping[str, tuple[str, Rule]] = RULES
) -> tuple[str, Json]:
    """The newest tag and mapping. Raises UnknownEvent, also for a tag of a newer release."""
    for old in _old_tags(tag, rules):
        tag, rule = rules[old]
        data = rule(data)
    return tag, data


def newest_tag(tag: str, *, rules: Mapping[str, tuple[str, Rule]] = RULES) -> str:
    """What `tag` is read as. Raises as `upcast` does."""
    old_tags = _old_tags(tag, rules)
    return rules[old_tags[-1]][0] if old_tags else tag


def stored_tags(
    kinds: Collection[type[Event]], *, rules: Mapping[str, tuple[str, Rule]] = RULES
) -> list[str]:
    """All tags, old and new, that are read as one of `kinds`: for who looks by tag in SQL."""
    return [tag for tag in (*TYPES, *rules) if TYPES[newest_tag(tag, rules=rules)] in kinds]


def _old_tags(tag: str, rules: Mapping[str, tuple[str, Rule]]) -> list[str]:
    """Those whose rules lead from `tag` to one of `TYPES`."""
    passed: list[str] = []
    while tag not in TYPES:
        if tag in passed:
            raise UnknownEvent(f"the rules for {passed[0]} go round in a circle")
        if tag not in rules:
            raise UnknownEvent(f"no rule of this release knows {tag}")
        passed.append(tag)
        tag = rules[tag][0]
    return passed
