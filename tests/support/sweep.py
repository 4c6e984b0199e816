"""A run is killed at one border after the other, and looked over when it has ended.

A lane is a stack of its own in which one run is driven at a time; lanes go side by side.
"""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from runs_domain.closing import OUTCOME_UNKNOWN
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from tests.support.chaos_report import Aftermath, check_invariants
from tests.support.nursery import ForkedWorker, Nursery
from tests.support.rest import Rest, Run, tag_of
from tests.support.run_key import key_is_good
from tests.support.run_story import check_story
from tests.support.stacks import BreakableStack
from tests.support.swept_model import COMMANDS, EFFECTS, STEPS, TOKENS, SweptModel, prompt_of
from tests.support.waiting import until
from tests.support.watch import Watch

MODEL = "openai/swept"
REACHED = re.compile(r"crash point (\S+):(\d+) (.*)")
TURN_SECONDS = 60.0


class Border(NamedTuple):
    point: str
    nth: int
    what: str
    """What lies there, for people."""

    @property
    def setting(self) -> str:
        return f"{self.point}:{self.nth}"

    @property
    def is_counted_finely(self) -> bool:
        """It comes with each frame, or with each event of a model."""
        return self.point.startswith("chunk.") or self.point == "model.streaming"


@dataclass
class Life:
    """What one worker did for a run."""

    finished_before: int
    finished: int
    """Model calls of the run whose event was in the log when this worker came and went."""
    asked: list[int]
    """Requests that the model's server had from it, by call."""


@dataclass
class SweptRun:
    name: str
    run: Run
    watch: Watch
    lives: list[Life] = field(default_factory=list)


class Lane:
    def __init__(
        self, stack: BreakableStack, rest: Rest, model: SweptModel, nursery: Nursery
    ) -> None:
        self.rest = rest
        self.model = model
        self._stack = stack
        self._nursery = nursery
        self._started = 0

    @asynccontextmanager
    async def run(self) -> AsyncIterator[SweptRun]:
        """A new run, for the worker that is started next, and a reader that follows it live."""
        name = f"run {secrets.token_hex(4)}"
        run = await self.rest.start(prompt_of(name), MODEL)
        async with self.rest.watching(run) as watch:
            self.model.workspaces[name] = self._stack.workspace_of(run.session_id)
            self.model.watches[name] = watch
            yield SweptRun(name, run, watch)

    async def worker(self, crash_at: str = "") -> ForkedWorker:
        self._started += 1
        log = self._stack.logs / f"forked-{self._started}.log"
        environment = {**self.environment, "RUNLEDGER_CRASH_AT": crash_at}
        return await self._nursery.start(environment, log)

    @property
    def environment(self) -> dict[str, str]:
        """Of a worker."""
        return {**self._stack.environment, "RUNLEDGER_MODEL_BASE_URL": self.model.base_url}

    def new_place(self) -> Path:
        """A directory for one worker."""
        self._started += 1
        place = self._stack.logs / f"worker-{self._started}"
        place.mkdir()
        return place

    async def lives_until_killed(self, swept: SweptRun, worker: ForkedWorker) -> None:
        """Wait until it has killed itself, and note what it did."""
        code = await worker.ended(timeout_seconds=TURN_SECONDS)
        assert code == -9, f"it was to be killed, and ended with {code}: {worker.logged()[-2000:]}"
        await self.note(swept)

    async def lives_to_the_end(self, swept: SweptRun, worker: ForkedWorker) -> None:
        """Wait until the run and its job are over, then end the worker."""
        await self.comes_to_an_end(swept)
        worker.kill()
        await worker.ended()
        await self.note(swept)

    async def comes_to_an_end(self, swept: SweptRun) -> None:
        """Wait until the run and its job are over."""
        await self.rest.ended(swept.run)
        redis = PipelinedRedis(self._stack.details["redisUrl"])
        try:
            jobs = RedisJobs(redis)
            ids = (swept.run.run_id,)

            async def is_gone() -> bool:
                return await jobs.missing("run", ids) == ids

            await until(is_gone, timeout_seconds=TURN_SECONDS)
        finally:
            await redis.aclose()

    async def note(self, swept: SweptRun) -> None:
        """What the worker that has just ended did for the run."""
        history = await self.rest.history(swept.run)
        finished = sum("finishReason" in e["data"] for e in history if is_message(e))
        asked = self.model.asked[swept.name]
        made_before = [sum(life.asked[step] for life in swept.lives) for step in range(STEPS)]
        asked_here = [asked[step] - made_before[step] for step in range(STEPS)]
        before = swept.lives[-1].finished if swept.lives else 0
        swept.lives.append(Life(before, finished, asked_here))

    async def check_log(self) -> None:
        """All invariants over all that the lane's runs have left."""
        await until(Aftermath(self._stack).is_at_rest, timeout_seconds=TURN_SECONDS)
        await asyncio.to_thread(check_invariants, self._stack)

    async def check(self, swept: SweptRun) -> str:
        """Everything that must hold of the run, which has ended; a line about how it went."""
        reader = await check_story(self.rest, swept.run, swept.watch)
        history = await self.rest.history(swept.run)
        check_requests(swept.lives)
        started = check_starts(history)
        check_charge(history)
        calls = started_calls(reader.message["parts"], started)
        effects = self.model.effects[swept.name]
        check_effects(calls, effects)
        assert not await key_is_good(self._stack.details, swept.run), "the run's key is alive"
        workspace = self._stack.workspace_of(swept.run.session_id)
        assert not workspace.parent.exists(), "the run's sandbox is still there"
        asked = [sum(life.asked[step] for life in swept.lives) for step in range(STEPS)]
        return (
            f"completed by {len(swept.lives)} workers; asked {' '.join(map(str, asked))};"
            f" {', '.join(map(call_in_short, calls))};"
            f" lines {' '.join(str(effects[name]) for name in EFFECTS)}"
        )


def is_message(event: dict[str, Any]) -> bool:
    return tag_of(event) == "message_persisted"


def check_requests(lives: Sequence[Life]) -> None:
    """Invariant 2: a call is asked for once, and again only if who asked died before its event."""
    for step in range(STEPS):
        winners = 0
        for life in lives:
            if life.finished_before > step:
                assert life.asked[step] == 0, ("a finished step was asked for again", step, lives)
            elif life.finished > step:
                winners += life.asked[step]
            else:
                assert life.asked[step] <= 1, ("one worker asked twice", step, lives)
        assert winners == 1, (step, lives)


def check_starts(history: Sequence[dict[str, Any]]) -> set[str]:
    """Invariant 2: no call is started twice. The ids of those that were."""
    started = Counter(
        call for e in history if tag_of(e) == "tool_started" for call in e["data"]["callIds"]
    )
    assert set(started.values()) == {1}, started
    return set(started)


def started_calls(parts: Sequence[dict[str, Any]], started: set[str]) -> list[dict[str, Any]]:
    """Others stand in a step that was cut short: they must be closed, and nothing ran."""
    calls = [part for part in parts if "toolCallId" in part]
    assert all(c["toolCallId"] in started or c["state"] == "output-error" for c in calls), calls
    return [call for call in calls if call["toolCallId"] in started]


def check_charge(history: Sequence[dict[str, Any]]) -> None:
    """Invariant 2: the ending counts every model call once."""
    (ending,) = [e for e in history if tag_of(e) == "completed"]
    tokens = tuple(map(sum, zip(*TOKENS, strict=True)))
    usage = ending["data"]["usage"]
    assert (usage["inputTokens"], usage["outputTokens"]) == tokens, usage


def check_effects(calls: Sequence[dict[str, Any]], effects: Counter[str]) -> None:
    """Invariant 2: a command ran once if it has a result, and never twice; a read is repeated."""
    assert len(calls) == STEPS
    assert set(effects) <= set(EFFECTS)
    for name, command in zip(EFFECTS, COMMANDS, strict=True):
        (call,) = [c for c in calls if c["input"].get("command") == command]
        allowed = {1} if call["state"] == "output-available" else {0, 1}
        assert effects[name] in allowed, (name, call, effects)
    (read,) = [c for c in calls if c["type"] == "tool-read"]
    assert read.get("errorText") != OUTCOME_UNKNOWN


def call_in_short(call: dict[str, Any]) -> str:
    kind = call["type"].removeprefix("tool-")
    if call["state"] == "output-available":
        return f"{kind} ok"
    return f"{kind} unknown" if call["errorText"] == OUTCOME_UNKNOWN else f"{kind} found nothing"


def borders_in(log: str) -> list[Border]:
    """All points that a worker came to which recorded them, in order."""
    return [
        Border(point, int(nth), what.strip().replace("run.", "").replace(".v1", ""))
        for point, nth, what in REACHED.findall(log)
    ]
