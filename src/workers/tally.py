"""What a worker counts, in sets of what is new since the last one: a fleet is their sum."""

import dataclasses
from collections.abc import Mapping
from typing import Any


class Tally:
    """One set is told at a time, under one number until it is known to have been told."""

    def __init__(self, sources: Mapping[str, Any]) -> None:
        """`sources`: who counts → a dataclass of whole numbers that only go up."""
        self._sources = sources
        self._told: dict[str, int] = {}
        self._number = 1
        self._telling: dict[str, int] = {}

    def next_set(self) -> tuple[int, dict[str, int]]:
        """The set's number, and `<who>_<field>` → how many more. The same until `settle`."""
        if not self._telling:
            now = self._now()
            more = {name: count - self._told.get(name, 0) for name, count in now.items()}
            self._telling = {name: count for name, count in more.items() if count}
        return self._number, dict(self._telling)

    def settle(self, number: int) -> None:
        """The set of that number was told."""
        if number != self._number:
            return  # told twice, side by side
        for name, more in self._telling.items():
            self._told[name] = self._told.get(name, 0) + more
        self._telling = {}
        self._number += 1

    def _now(self) -> dict[str, int]:
        return {
            f"{who}_{field}": count
            for who, counters in self._sources.items()
            for field, count in dataclasses.asdict(counters).items()
        }
