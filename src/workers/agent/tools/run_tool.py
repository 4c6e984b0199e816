"""One tool call, fenced: whatever a tool does, a `ToolResult` comes back in time."""

import asyncio
import logging
from dataclasses import replace
from typing import Any, Final

import msgspec

from runs_domain.clean import clean_key, clean_text
from runs_domain.errors import RunledgerError, SandboxError, SandboxNotFound
from runs_domain.events import Json
from workers.agent.tools.registry import Tools
from workers.agent.tools.tool import (
    ErrorOrigin,
    Tool,
    ToolContext,
    ToolError,
    ToolFailed,
    ToolResult,
)
from workers.left_behind import leave

_log: Final = logging.getLogger(__name__)

OVERTIME_SECONDS: Final = 5.0
"""Past its deadline a tool may still put together what it has; then it is aborted."""
ABORT_SECONDS: Final = 10.0
"""How long an aborted tool may take to clean up before it is left to itself (incident I-09)."""
DEPTH_MAX: Final = 64
"""Levels of an output's nesting."""


async def run_tool(
    tools: Tools,
    name: str,
    raw_input: Any,
    context: ToolContext,
    *,
    timeout_seconds: float,
) -> ToolResult:
    """Run the tool `name`; at most timeout + OVERTIME_SECONDS + ABORT_SECONDS.

    Raises only what is not about this call: cancellation, and errors of the run such as
    StaleAttempt or StoreUnavailable.
    """
    tool = tools.get(name)
    if tool is None:
        known = ", ".join(tools.names()) or "none"
        return _failed("unknown_tool", f"There is no tool {name!r}. The tools are: {known}.")
    try:
        given = msgspec.convert(raw_input, tool.input_type, strict=False)
    except msgspec.ValidationError as error:
        return _failed("bad_input", f"The input of {name} is wrong: {error}.")
    context = replace(context, deadline_seconds=timeout_seconds)
    task = asyncio.create_task(_run(tool, given, context), name=f"tool:{name}")
    try:
        ended, _ = await asyncio.wait({task}, timeout=timeout_seconds + OVERTIME_SECONDS)
        if not ended:
            await _abort(task)
            return _failed("timeout", f"{name} was stopped after {timeout_seconds:g} seconds.")
    except asyncio.CancelledError:
        await _abort(task)
        raise
    return _result(name, task)


async def _run(tool: Tool, given: Any, context: ToolContext) -> Json:
    return await tool.run(given, context)


async def _abort(task: asyncio.Task[Json]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=ABORT_SECONDS)
    name = task.get_name()

    def look(ended: asyncio.Future[Json]) -> None:
        """An aborted tool's last error changes nothing any more, but is not lost."""
        error = None if ended.cancelled() else ended.exception()
        if error is not None:
            _log.warning("%s, aborted, raised %s", name, type(error).__name__)

    if leave(task, look):
        _log.error("a tool ignored its abort: %s", name)


def _result(name: str, task: asyncio.Task[Json]) -> ToolResult:
    try:
        return ToolResult(output=_cleaned(task.result()))
    except asyncio.CancelledError:
        # Nobody cancelled it: the abort came from inside and stays inside (incident I-10).
        return _failed("tool", f"{name} was aborted from inside.")
    except ToolFailed as error:
        return _failed("tool", str(error))
    except SandboxNotFound as error:
        return _failed("workspace_lost", str(error))
    except SandboxError as error:
        return _failed("sandbox", str(error))
    except RunledgerError:
        raise
    except Exception as error:  # noqa: BLE001 - a tool's bug is the model's to work around
        _log.error("%s raised %s", task.get_name(), type(error).__name__)
        return _failed("internal", f"{name} has a fault ({type(error).__name__}).")


def _failed(origin: ErrorOrigin, text: str) -> ToolResult:
    return ToolResult(error=ToolError(origin=origin, text=clean_text(text)))


def _cleaned(value: Any, depth: int = 0) -> Any:
    if depth > DEPTH_MAX:
        raise ToolFailed(f"The output is nested deeper than {DEPTH_MAX} levels.")
    match value:
        case str():
            return clean_text(value)
        case dict():
            return {
                clean_key(str(key), inner): _cleaned(inner, depth + 1)
                for key, inner in value.items()
            }
        case list() | tuple():
            return [_cleaned(inner, depth + 1) for inner in value]
        case _:
            return value
