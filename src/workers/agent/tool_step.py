"""The tool calls of one model call: each starts once, each result is an event of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from runs_domain import commands as c
from runs_domain.closing import error_part
from runs_domain.errors import SandboxNotFound
from runs_domain.events import Json
from runs_domain.frames import tool_name
from runs_domain.plan import RunTools
from runs_domain.sandbox_port import Sandbox
from runs_domain.step import output_part, results
from workers.agent.tools.registry import Tools
from workers.agent.tools.run_tool import run_tool
from workers.agent.tools.tool import ToolContext, ToolResult
from workers.held_run import HeldRun
from workers.interrupt import Interrupted

TOOLS_AT_ONCE_MAX: Final = 8
"""Tool calls of one run that overlap."""
OUTCOME_UNKNOWN: Final = "interrupted: outcome unknown"
"""The answer to a call that was started by a worker that died; the model decides what to do."""


class ToolStep:
    """`sandbox` opens the run's sandbox, at the first call that needs it."""

    def __init__(
        self,
        held: HeldRun,
        tools: Tools,
        sandbox: Callable[[], Awaitable[Sandbox]],
        *,
        timeout_seconds: float,
    ) -> None:
        self._held = held
        self._tools = tools
        self._sandbox = sandbox
        self._timeout_seconds = timeout_seconds
        self._at_once = asyncio.Semaphore(TOOLS_AT_ONCE_MAX)

    async def perform(self, step: RunTools) -> None:
        """Results that have come are persisted, whatever stops the others.

        Raises Interrupted when the run must stop, SandboxNotFound when its workspace is gone.
        """
        calls = {part["toolCallId"]: part for part in self._held.state.parts if _is_call(part)}
        if step.fresh:
            await self._held.append(c.StartTools(attempt=self._held.attempt, call_ids=step.fresh))
        again = [call for call in step.unknown if self._tools.is_repeatable(tool_name(calls[call]))]
        closed = [call for call in step.unknown if call not in again]
        if closed:
            await self._record([error_part(calls[call], OUTCOME_UNKNOWN) for call in closed])
        await self._run_all([calls[call] for call in (*step.fresh, *again)])

    async def _run_all(self, calls: list[Json]) -> None:
        tasks = {asyncio.create_task(self._run(call)): call for call in calls}
        signal = asyncio.create_task(self._held.interrupt.wait())
        waiting: set[asyncio.Task[Any]] = set(tasks)
        try:
            while waiting:
                done, _ = await asyncio.wait(
                    {*waiting, signal}, return_when=asyncio.FIRST_COMPLETED
                )
                finished = [task for task in tasks if task in done and task in waiting]
                waiting -= done
                if finished:
                    await self._record([_answer(tasks[task], task.result()) for task in finished])
                if signal in done and waiting:
                    raise Interrupted
        finally:
            signal.cancel()
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.wait(waiting)

    async def _run(self, call: Json) -> ToolResult:
        async with self._at_once:
            return await run_tool(
                self._tools,
                tool_name(call),
                call["input"],
                ToolContext(sandbox=self._sandbox, call_id=call["toolCallId"]),
                timeout_seconds=self._timeout_seconds,
            )

    async def _record(self, parts: list[Json]) -> None:
        answered = {part["toolCallId"] for part in parts}
        left = [call for call in self._held.state.open_calls if call not in answered]
        await self._held.append(
            results(self._held.cursor, self._held.attempt, tuple(parts), closes_step=not left)
        )


def _is_call(part: Json) -> bool:
    return "toolCallId" in part


def _answer(call: Json, result: ToolResult) -> Json:
    if result.error is None:
        return output_part(call, result.output)
    if result.error.origin == "workspace_lost":
        raise SandboxNotFound(result.error.text)
    return error_part(call, result.error.text)
