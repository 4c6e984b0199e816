"""Child processes that a cancellation, at any moment, neither leaks nor hangs on.

asyncio's own `create_subprocess_exec`, cancelled between fork and the connection of its pipes,
waits for them for ever. Every process of this package is started here.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from typing import Final

from runs_domain.errors import SandboxUnavailable
from workers.adapters.sandbox_local.programs import HOST_ENVIRONMENT

KILL_SECONDS: Final = 5.0
"""From SIGKILL to the last process gone."""


async def spawn(
    *argv: str,
    stdin: int = DEVNULL,
    stdout: int = DEVNULL,
    stderr: int = DEVNULL,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start a program in a session of its own, with nothing of this process's environment."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=HOST_ENVIRONMENT,
            cwd="/",
            pass_fds=pass_fds,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():
            with contextlib.suppress(asyncio.CancelledError):  # raised below, once
                await asyncio.wait({starting})
        if starting.exception() is None:
            await put_down(starting.result())
        raise


def kill(process: Process) -> None:
    """The program and its group: those that it started and that did not leave its session."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def put_down(process: Process) -> None:
    """Kill, and wait until it is gone and its pipes are closed. Raises SandboxUnavailable."""
    kill(process)
    try:
        async with asyncio.timeout(KILL_SECONDS):
            await process.communicate()
    except TimeoutError as error:
        raise SandboxUnavailable("a killed process would not end") from error


async def output_of(process: Process, *, timeout_seconds: float) -> tuple[bytes, bytes]:
    """stdout and stderr of a program that ends by itself. Raises TimeoutError, having killed it."""
    try:
        async with asyncio.timeout(timeout_seconds):
            return await process.communicate()
    finally:
        if process.returncode is None:
            await put_down(process)
