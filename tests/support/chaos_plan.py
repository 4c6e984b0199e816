"""What a chaos run does, all of it out of its seed: the errands of clients and the blows in turn.

Only the plan is fixed: what meets what is up to the machine, so a failing seed fails again often,
not always.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import override

from tests.support.links import LINKS, LinkName
from tests.support.rest import ECHO, PLAYBOOK

CANARY: Final = "canary-in-every-prompt"
LOOK: Final = "cat effects"
PAUSE_SECONDS: Final = (0.1, 1.9)
"""Between two blows."""
HOLD_SECONDS: Final = (0.2, 2.2)
"""How long a blow lasts: what it broke is put right then."""
DELAY_MS: Final = (5, 60)
WORKER_BLOWS: Final = {"worker killed": 5, "worker asleep": 4, "worker stopped": 4}
SERVER_BLOWS: Final = {
    "redis flushed": 3,
    "redis restarted": 2,
    "redis killed": 2,
    "postgres restarted": 2,
    "postgres killed": 2,
    "api restarted": 1,
    "api killed": 1,
}
LINK_BLOWS: Final = {"cut": 4, "blackhole": 3, "stall": 3, "refuse": 2, "delay": 2}


@dataclass(frozen=True)
class Blow:
    what: str
    pause_seconds: float
    """After the blow before it."""
    hold_seconds: float
    which: int
    """Of the workers, counted round."""
    link: LinkName
    milliseconds: int

    @override
    def __str__(self) -> str:
        where = f" {self.link}" if self.what in LINK_BLOWS else ""
        return f"+{self.pause_seconds:.2f} s {self.what}{where} for {self.hold_seconds:.2f} s"


def blows(seed: int, *, pace: float = 1.0) -> Iterator[Blow]:
    """Without end: a run takes as many as it lasts. A higher `pace` has less between them."""
    chance = random.Random(f"blows {seed}")  # noqa: S311 - a test's dice
    kinds = WORKER_BLOWS | SERVER_BLOWS | LINK_BLOWS
    while True:
        (what,) = chance.choices(list(kinds), weights=list(kinds.values()))
        yield Blow(
            what=what,
            pause_seconds=chance.uniform(*PAUSE_SECONDS) / pace,
            hold_seconds=chance.uniform(*HOLD_SECONDS),
            which=chance.randrange(60),
            link=chance.choice(LINKS),
            milliseconds=chance.randint(*DELAY_MS),
        )


@dataclass(frozen=True)
class Errand:
    """One run that a client wants."""

    number: int
    model: str
    prompt: str
    effects: tuple[str, ...]
    """The lines that its commands leave, one each."""
    cancel_after_seconds: float | None
    is_watched: bool
    """Its client reads the stream instead of asking for the status."""


def errands(seed: int, count: int) -> list[Errand]:
    chance = random.Random(f"errands {seed}")  # noqa: S311 - a test's dice
    return [_errand(number, chance) for number in range(count)]


def _errand(number: int, chance: random.Random) -> Errand:
    effects: list[str] = []
    kind = chance.choices(["echo", "words", "tools"], weights=[3, 3, 4])[0]
    if kind == "echo":
        model, prompt = ECHO, f"{CANARY} {number} " + "word " * chance.randint(1, 60)
    elif kind == "words":
        calls = [_call(f"{CANARY} {number}", chance)]
        model, prompt = PLAYBOOK, json.dumps({"calls": calls})
    else:
        calls = [_tools(number, step, effects, chance) for step in range(chance.randint(1, 3))]
        look = {"tools": [_bash(LOOK)]}
        model, prompt = PLAYBOOK, json.dumps({"calls": [*calls, look, {"text": "done"}]})
    return Errand(
        number=number,
        model=model,
        prompt=prompt,
        effects=tuple(effects),
        cancel_after_seconds=chance.uniform(0.0, 2.0) if chance.random() < 0.12 else None,
        is_watched=chance.random() < 0.05,
    )


def _call(text: str, chance: random.Random) -> dict[str, Any]:
    """A model call that takes a while, and now and then does not come off at first."""
    call = {"text": f"{text} " * chance.randint(1, 12), "delta_ms": chance.randint(5, 40)}
    return call | ({"error": "overloaded", "times": 1} if chance.random() < 0.1 else {})


def _tools(number: int, step: int, effects: list[str], chance: random.Random) -> dict[str, Any]:
    """Up to three commands at once, each leaving a line of its own."""
    tools = []
    for call in range(chance.choices([1, 2, 3], weights=[5, 2, 1])[0]):
        effects.append(f"run{number}step{step}call{call}")
        wait = f"sleep {chance.uniform(0.05, 0.4):.2f}; " if chance.random() < 0.4 else ""
        tools.append(_bash(f"{wait}echo {effects[-1]} >> effects # {CANARY}"))
    return _call(f"{CANARY} now", chance) | {"tools": tools}


def _bash(command: str) -> dict[str, Any]:
    return {"name": "bash", "input": {"command": command}}
