"""The tool calls of one model call: each starts once, each result is an event of its own."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any, Final

from runs_domain import commands as c
from runs_domain.closing import OUTCOME_UNKNOWN, error_part
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
"""Tool calls of one run that overlap. A call that waits for its turn has not started: lost with
its worker, it runs at the next one."""


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
        self._running: dict[asyncio.Task[Any], Json] = {}

    async def perform(self, step: RunTools) -> None:
        """Results that have come are persisted, whatever stops the others.

        A process that is to end begins no further call: then some are still open after this.
        Raises Interrupted when the run must stop, SandboxNotFound when its workspace is gone.
        """
        calls = {part["toolCallId"]: part for part in self._held.state.parts if _is_call(part)}
        again = [call for call in step.unknown if self._tools.is_repeatable(tool_name(calls[call]))]
        closed = [call for call in step.unknown if call not in again]
        wanted = [call for call in self._held.state.open_calls if call in {*step.fresh, *again}]
        if closed:
            await self._record([error_part(calls[call], OUTCOME_UNKNOWN) for call in closed])
        await self._run_all(deque(calls[call] for call in wanted))

    async def _run_all(self, calls: deque[Json]) -> None:
        signal: asyncio.Task[Any] = asyncio.create_task(self._held.interrupt.wait())
        try:
            while True:
                if not self._held.stopping.is_set():
                    await self._begin(calls)
                if not self._running:
                    return
                done, _ = await asyncio.wait(
                    {*self._running, signal}, return_when=asyncio.FIRST_COMPLETED
                )
                await self._record_finished(
                    {task: self._running.pop(task) for task in done - {signal}}
                )
                if signal in done and (self._running or calls):
                    raise Interrupted
        finally:
            signal.cancel()
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(self._running)

    async def _begin(self, calls: deque[Json]) -> None:
        """Start as many as may overlap; those that were never started, by one event."""
        batch = list(islice(calls, TOOLS_AT_ONCE_MAX - len(self._running)))
        started = self._held.state.started_calls
        fresh = tuple(call["toolCallId"] for call in batch if call["toolCallId"] not in started)
        if fresh:
            await self._held.append(c.StartTools(attempt=self._held.attempt, call_ids=fresh))
        for call in batch:
            self._running[asyncio.create_task(self._run(call))] = calls.popleft()

    async def _record_finished(self, finished: dict[asyncio.Task[ToolResult], Json]) -> None:
        """Results are kept first; then whatever a sibling raised goes on its way."""
        results_of = {task: call for task, call in finished.items() if not task.exception()}
        lost = [task for task in results_of if _is_lost(task.result())]
        kept = [
            _answer(call, task.result()) for task, call in results_of.items() if task not in lost
        ]
        if kept:
            await self._record(kept)
        for task in finished:
            task.result()
        if lost:
            raise SandboxNotFound("the run's workspace is not on this host")

    async def _run(self, call: Json) -> ToolResult:
        context = ToolContext(
            sandbox=self._sandbox, run_id=self._held.run_id, call_id=call["toolCallId"]
        )
        return await run_tool(
            self._tools,
            tool_name(call),
            call["input"],
            context,
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


def _is_lost(result: ToolResult) -> bool:
    return result.error is not None and result.error.origin == "workspace_lost"


def _answer(call: Json, result: ToolResult) -> Json:
    if result.error is not None:
        return error_part(call, result.error.text)
    return output_part(call, result.output)
