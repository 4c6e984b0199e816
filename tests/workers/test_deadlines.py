"""Invariant 12 and incident I-09: nothing that never comes back holds a run."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.commands import RequestCancel
from runs_domain.errors import SandboxUnavailable
from runs_domain.events import Json
from runs_domain.handle import handle
from runs_domain.sandbox_port import SandboxSpec
from tests.support.builders import RUN
from tests.support.driving import ExecProvider, Note, World
from tests.support.waiting import until
from workers import interrupt, left_behind, run_sandbox
from workers.adapters.sandbox_none import NoSandbox
from workers.agent import model_step
from workers.agent.tools import run_tool
from workers.agent.tools.tool import ToolContext

SHORT_SECONDS = 0.1
"""Enough for whatever does not hang, on a busy machine too."""
END = ["completed", "key_revoked", "sandbox_released"]
PLAYBOOK = "scripted/playbook"
NOTE = json.dumps({"calls": [{"tools": [{"name": "note", "input": {"text": "a"}}]}, {}]})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_step, "MODEL_CALL_SECONDS_MAX", SHORT_SECONDS)
    monkeypatch.setattr(interrupt, "ABORT_SECONDS_MAX", SHORT_SECONDS)
    monkeypatch.setattr(run_tool, "OVERTIME_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(run_tool, "ABORT_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(run_sandbox, "RELEASE_SECONDS_MAX", SHORT_SECONDS)
    monkeypatch.setattr(run_sandbox, "DETACH_SECONDS_MAX", SHORT_SECONDS)


class Never:
    """`await never()` does not come back, whoever cancels it, until the test is over."""

    def __init__(self) -> None:
        self.begun = 0
        self._over = asyncio.Event()
        self._deaf: set[asyncio.Task[Any]] = set()

    async def __call__(self) -> None:
        self.begun += 1
        task = asyncio.current_task()
        assert task is not None
        self._deaf.add(task)
        while not self._over.is_set():
            with suppress(asyncio.CancelledError):
                await self._over.wait()

    async def end(self) -> None:
        """Afterwards nothing here keeps what has ended from being forgotten."""
        self._over.set()
        deaf, self._deaf = self._deaf, set()
        if deaf:
            await asyncio.wait(deaf)


@pytest.fixture
async def never() -> AsyncIterator[Never]:
    made = Never()
    yield made
    await made.end()


class Visit(Note):
    """Goes into the sandbox, then takes its note."""

    async def run(self, given: Any, context: ToolContext) -> Json:
        await context.sandbox()
        return await super().run(given, context)


class Place(NoSandbox):
    """A sandbox that stays until it is destroyed; detaching and destroying may hang."""

    def __init__(self, provider: "Places", name: str) -> None:
        super().__init__(name)
        self._provider = provider

    async def detach(self) -> None:
        await self._provider.on_detach()

    async def destroy(self) -> None:
        await self._provider.on_destroy()
        self._provider.stands.discard(self.state.name)


async def at_once() -> None:
    pass


class Places(ExecProvider):
    def __init__(self) -> None:
        super().__init__()
        self.stands: set[str] = set()
        self.on_open: Callable[[], Awaitable[None]] = at_once
        self.on_detach: Callable[[], Awaitable[None]] = at_once
        self.on_destroy: Callable[[], Awaitable[None]] = at_once

    async def open(self, spec: SandboxSpec, *, key: Any) -> tuple[NoSandbox, bool]:
        self.stands.add(spec.name)
        await self.on_open()
        return Place(self, spec.name), True

    async def find(self, name: str) -> Any:
        return Place(self, name) if name in self.stands else None


def visiting() -> tuple[World, Places]:
    world = World()
    world.note = Visit()
    world.sandboxes = places = Places()
    return world, places


async def released(world: World) -> e.SandboxReleased:
    last = (await world.events())[-1]
    assert isinstance(last, e.SandboxReleased)
    return last


async def test_I_09_a_model_call_that_never_ends_is_left_to_itself(
    never: Never, caplog: pytest.LogCaptureFixture
) -> None:
    class Deaf:
        def serves(self, model_id: str) -> bool:
            return True

        async def stream(self, request: m.ModelRequest) -> AsyncIterator[m.ModelEvent]:
            yield m.TextDelta(text="half")
            await never()

    world = World(Deaf())
    await world.request()

    await world.drive()

    failed = (await world.state()).ending
    assert isinstance(failed, e.Failed)
    assert failed.code == "model_unavailable"
    assert never.begun == 5
    await never.end()
    await until(lambda: not left_behind._left)
    gc.collect()
    assert "never retrieved" not in caplog.text, "what it raises at last is told to nobody"


async def test_I_09_a_sandbox_that_never_opens_is_an_error_that_the_model_is_told(
    never: Never,
) -> None:
    world, places = visiting()
    world.tool_timeout_seconds = SHORT_SECONDS
    places.on_open = never
    await world.request(NOTE, PLAYBOOK)

    await world.drive()

    part = next(part for part in (await world.state()).parts if "toolCallId" in part)
    assert "was stopped after" in part["errorText"]
    assert (await world.tags())[-3:] == END
    assert (await released(world)).found, "what the opening had made was found and taken away"
    assert not places.stands


async def test_a_cancel_while_the_sandbox_is_being_made_undoes_it(never: Never) -> None:
    world, places = visiting()
    places.on_open = never
    await world.request(NOTE, PLAYBOOK)
    driving = asyncio.create_task(world.drive())
    await until(lambda: never.begun)

    await handle(world.log, RUN, RequestCancel(by="key:1", why="client"), world.context("key:1"))
    world.pushes.push(RUN)
    await driving

    assert (await world.tags())[-3:] == ["cancelled", "key_revoked", "sandbox_released"]
    assert (await released(world)).found
    assert not places.stands


async def test_I_09_a_release_that_never_ends_gives_the_job_back(never: Never) -> None:
    world, places = visiting()
    places.on_destroy = never
    await world.request(NOTE, PLAYBOOK)

    with pytest.raises(SandboxUnavailable):
        await world.drive()
    places.on_destroy = at_once
    await world.drive(redelivered=True)

    assert (await world.tags())[-3:] == END
    assert not places.stands


async def test_I_09_letting_go_of_a_sandbox_that_hangs_does_not_keep_a_run_from_its_next_worker(
    never: Never,
) -> None:
    world, places = visiting()
    places.on_detach = never
    stop = asyncio.Event()

    async def stopped(_: str) -> None:
        stop.set()

    world.note.before = stopped
    await world.request(NOTE, PLAYBOOK)

    assert await world.drive(stopping=stop) is False

    assert never.begun == 1
    await world.drive("handover")
    assert (await world.tags())[-3:] == END
