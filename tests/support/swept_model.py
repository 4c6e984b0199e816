"""The model of a sweep's runs: three calls, three tool calls, and a count of what was asked.

Call 0 has one command leave a line; call 1 has a file read and a second command leave a line, both
at once; call 2 speaks the last word. Which call it is follows from the conversation, so that a
worker that takes over is answered as the one that was lost.
"""

import asyncio
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import override

from tests.support.model_server import DONE, ModelServer, Received, Reply, call, finish, text, usage
from tests.support.waiting import until
from tests.support.watch import Watch

STEPS = 3
EFFECTS = ("one", "two")
"""The lines that the two commands leave, once each."""
TOKENS = ((10, 3), (20, 5), (30, 7))
"""Of each call, in and out."""
WORDS = ("First words.", "Second words.", "Last words.")
SEEN_SECONDS = 50.0
PAUSE = "sleep 0.3; "
"""So that the file has been read before the second command ends: always in the same order."""
COMMANDS = ("echo one >> effects", f"{PAUSE}echo two >> effects")


@dataclass
class SweptModel(ModelServer):
    """Each run has a name of its own, which its prompt says."""

    asked: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """How often the run asked for its call 0, 1 and 2."""
    effects: dict[str, Counter[str]] = field(default_factory=dict)
    """The lines in the run's workspace when it last asked for anything."""
    workspaces: dict[str, Path] = field(default_factory=dict)
    watches: dict[str, Watch] = field(default_factory=dict)
    """Who reads along: an answer goes on only when its first words have been seen."""
    held: dict[tuple[str, int], asyncio.Event] = field(default_factory=dict)
    """Answers that wait for their event as well."""

    @override
    async def answer(self, asked: Received) -> Reply:
        name = re.search(r"\[(run \w+)\]", json.dumps(asked.body["messages"]))
        assert name is not None
        run = name[1]
        step = sum("tool_calls" in message for message in asked.body["messages"])
        self.asked[run][step] += 1
        self.effects[run] = lines_of(self.workspaces[run] / "effects")
        words, rest = _steps(step)
        waits = [self._seen(self.watches[run], WORDS[step])]
        if (run, step) in self.held:
            waits.append(self.held[run, step])
        return Reply((*words, *waits, *rest), 200, {}, None)

    def _seen(self, watch: Watch, words: str) -> asyncio.Event:
        """Set when the reader has these words once more than now."""
        seen, before = asyncio.Event(), watch.text.count(words)

        async def look() -> None:
            await until(lambda: watch.text.count(words) > before, timeout_seconds=SEEN_SECONDS)
            seen.set()

        task = asyncio.create_task(look())
        self._tasks.add(task)
        return seen


def prompt_of(run: str) -> str:
    return f"Work through [{run}]"


def lines_of(file: Path) -> Counter[str]:
    return Counter(file.read_text("utf-8").split()) if file.exists() else Counter()


def _steps(step: int) -> tuple[list[Any], list[Any]]:
    """The first words, and the rest."""
    prompt, completion = TOKENS[step]
    match step:
        case 0:
            calls = _bash(0, COMMANDS[0])
        case 1:
            calls = [*_read(0), *_bash(1, COMMANDS[1])]
        case _:
            calls = [text(" That is all.")]
    words = [text(word) for word in WORDS[step].partition(" ")]
    reason = "stop" if step + 1 == STEPS else "tool_calls"
    return words, [*calls, finish(reason), usage(prompt, completion), DONE]


def _bash(index: int, command: str) -> list[Any]:
    given = json.dumps({"command": command})
    return [
        call(index, given[:15], name="bash", id=f"call-{index}"),
        call(index, given[15:]),
    ]


def _read(index: int) -> list[Any]:
    return [call(index, json.dumps({"filePath": "effects"}), name="read", id=f"call-{index}")]
