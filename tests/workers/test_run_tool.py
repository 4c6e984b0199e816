"""The fence around a tool: whatever it does, the loop gets a result and goes on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from runs_domain.errors import (
    RunledgerError,
    SandboxNotFound,
    SandboxUnavailable,
    StaleAttempt,
    StoreUnavailable,
)
from runs_domain.events import Json
from runs_domain.sandbox_port import Sandbox
from tests.support.builders import RUN
from tests.support.waiting import until
from workers import left_behind
from workers.agent.tools import run_tool as fence
from workers.agent.tools.registry import Tools
from workers.agent.tools.tool import ToolContext, ToolFailed, ToolInput, ToolResult

Work = Callable[[ToolContext], Awaitable[Any]]
SECRET = "the content of a message"  # noqa: S105 - what must not be logged


class NoInput(ToolInput, frozen=True):
    pass


class FakeTool:
    """Does what it is given to do."""

    name = "fake"
    description = "for tests"
    input_type = NoInput
    repeatable = False

    def __init__(self, work: Work) -> None:
        self._work = work

    async def run(self, given: NoInput, context: ToolContext) -> Json:
        assert given == NoInput()
        output: Json = await self._work(context)
        return output


async def no_sandbox() -> Sandbox:
    raise AssertionError


async def run(work: Work, *, timeout_seconds: float = 30.0) -> ToolResult:
    context = ToolContext(sandbox=no_sandbox, run_id=RUN, call_id="call-7")
    tools = Tools([FakeTool(work)])
    return await fence.run_tool(tools, "fake", {}, context, timeout_seconds=timeout_seconds)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "OVERTIME_SECONDS", 0.01)
    monkeypatch.setattr(fence, "ABORT_SECONDS", 0.05)


class Stubborn:
    """Swallows every cancellation until it is let go."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.aborts = 0
        self.ended = False

    async def __call__(self, _context: ToolContext) -> Json:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.aborts += 1
        self.ended = True
        raise ValueError(SECRET)


async def test_a_tool_is_told_its_call_id_and_its_time() -> None:
    async def work(context: ToolContext) -> Json:
        return {"call": context.call_id, "seconds": context.deadline_seconds}

    assert (await run(work, timeout_seconds=7)).output == {"call": "call-7", "seconds": 7}


@pytest.mark.usefixtures("impatient")
async def test_I_09_a_tool_that_ignores_its_abort_cannot_hold_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stubborn = Stubborn()

    result = await run(stubborn, timeout_seconds=0.01)

    assert result.error is not None
    assert result.error.origin == "timeout"
    assert stubborn.aborts == 1
    assert not stubborn.ended
    assert "ignored its abort" in caplog.text
    stubborn.release.set()
    await until(lambda: not left_behind._left)
    assert SECRET not in caplog.text


@pytest.mark.usefixtures("impatient")
async def test_I_09_cancelling_the_run_does_not_wait_for_a_stubborn_tool() -> None:
    stubborn = Stubborn()
    running = asyncio.create_task(run(stubborn))
    await until(lambda: len(asyncio.all_tasks()) > 2)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    stubborn.release.set()
    await until(lambda: not left_behind._left)


async def test_cancelling_the_run_lets_a_tool_clean_up_first() -> None:
    began, cleaned = asyncio.Event(), asyncio.Event()

    async def work(_context: ToolContext) -> Json:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()
        return {}

    running = asyncio.create_task(run(work))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert cleaned.is_set()


async def test_I_10_an_abort_from_inside_is_a_tools_failure_and_nothing_more() -> None:
    async def work(_context: ToolContext) -> Json:
        raise asyncio.CancelledError

    result = await run(work)

    assert result.error is not None
    assert result.error.origin == "tool"


@pytest.mark.parametrize(
    ("error", "origin", "text"),
    [
        (ToolFailed("do this instead"), "tool", "do this instead"),
        (SandboxNotFound("gone"), "workspace_lost", "gone"),
        (SandboxUnavailable("not now"), "sandbox", "not now"),
        (ZeroDivisionError(SECRET), "internal", "fake has a fault (ZeroDivisionError)."),
        (TimeoutError(SECRET), "internal", "fake has a fault (TimeoutError)."),
    ],
)
async def test_each_failure_has_its_origin_and_none_leaks_content(
    error: Exception, origin: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(_context: ToolContext) -> Json:
        raise error

    with caplog.at_level(logging.DEBUG):
        result = await run(work)

    assert result.error is not None
    assert (result.error.origin, result.error.text) == (origin, text)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("error", [StaleAttempt("lost"), StoreUnavailable("down")])
async def test_errors_of_the_run_are_not_told_to_the_model(error: RunledgerError) -> None:
    async def work(_context: ToolContext) -> Json:
        raise error

    with pytest.raises(type(error)):
        await run(work)


async def test_output_becomes_what_the_log_can_hold() -> None:
    async def work(_context: ToolContext) -> Any:
        return {"a\0": ["x\0y", "\ud800", ("\udcff", "\ud83d\ude00")], "n": 1, "none": None}

    result = await run(work)

    assert result.output == {
        "a\ufffd": ["x\ufffdy", "\ufffd", ["\ufffd", "\U0001f600"]],
        "n": 1,
        "none": None,
    }


async def test_output_without_a_bottom_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless

    async def work(_context: ToolContext) -> Any:
        return endless

    result = await run(work)

    assert result.error is not None
    assert "nested deeper" in result.error.text
