"""What workers count is told once each, and everything that is counted is shown."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from runs_domain.storage.fleet_counters import FLEET_COUNTERS
from workers.burials import BurialCounters
from workers.delivery import WorkerCounters
from workers.driver import DriverCounters
from workers.reconciler import ReconcilerCounters
from workers.tally import Tally

DOCUMENT = Path(__file__).parents[2] / "docs" / "ops" / "metrics.md"
COUNTED = {
    "jobs": WorkerCounters,
    "driver": DriverCounters,
    "reconciler": ReconcilerCounters,
    "dead_letters": BurialCounters,
}


@dataclass
class Counts:
    apples: int = 0
    pears: int = 0


def test_each_count_is_told_once() -> None:
    counts = Counts(apples=2)
    tally = Tally({"fruit": counts})
    number, first = tally.next_set()
    tally.settle(number)
    counts.apples, counts.pears = 3, 1

    assert first == {"fruit_apples": 2}
    assert tally.next_set() == (number + 1, {"fruit_apples": 1, "fruit_pears": 1})


def test_what_may_not_have_been_told_is_told_again_as_it_was() -> None:
    counts = Counts(apples=2)
    tally = Tally({"fruit": counts})
    first = tally.next_set()
    counts.apples = 9

    assert tally.next_set() == first
    tally.settle(first[0])
    assert tally.next_set() == (first[0] + 1, {"fruit_apples": 7})


def test_a_set_that_is_told_twice_side_by_side_is_settled_once() -> None:
    counts = Counts(apples=2)
    tally = Tally({"fruit": counts})
    number, _ = tally.next_set()
    tally.settle(number)
    counts.apples = 5
    assert tally.next_set() == (number + 1, {"fruit_apples": 3})

    tally.settle(number)
    assert tally.next_set() == (number + 1, {"fruit_apples": 3})


def test_every_counter_is_shown_and_documented() -> None:
    names = {
        f"{who}_{field.name}" for who, kind in COUNTED.items() for field in dataclasses.fields(kind)
    }

    assert names == set(FLEET_COUNTERS)
    document = DOCUMENT.read_text("utf-8")
    for name, says in FLEET_COUNTERS.items():
        assert f"| `runledger_{name}_total` | {says} |" in document
