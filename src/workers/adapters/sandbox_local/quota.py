"""How much a sandbox holds, looked at while commands run: no kernel quota is portable.

A breach is found within `quota_poll_seconds`. Who needs a hard cap gives DATA_DIR its own volume.
"""

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from runs_domain.events import Struct
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.programs import Programs
from workers.adapters.sandbox_local.spawn import output_of, spawn
from workers.adapters.sandbox_local.workspace import as_owner

_BLOCK_BYTES: Final = 512
SCAN_SECONDS_MAX: Final = 60.0


class Usage(Struct, frozen=True):
    bytes: int
    files: int

    def exceeds(self, limits: Limits) -> bool:
        return self.bytes > limits.workspace_bytes_max or self.files > limits.workspace_files_max

    def is_more_than(self, other: "Usage") -> bool:
        return self.bytes > other.bytes or self.files > other.files


class QuotaWatch:
    """Calls `on_breach` when a sandbox holds too much and is still growing.

    One that holds too much may run commands that do not add to it: how else would it shrink?
    """

    def __init__(
        self, folder: Path, programs: Programs, limits: Limits, on_breach: Callable[[], None]
    ) -> None:
        self._folder = folder
        self._programs = programs
        self._limits = limits
        self._on_breach = on_breach
        self._commands = 0
        self._polling: asyncio.Task[None] | None = None
        self._looked_at = asyncio.get_running_loop().time()
        self._excess: Usage | None = None

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Around each command. Looks on at a fixed pace, however short the commands are."""
        self._commands += 1
        if self._polling is None:
            self._polling = asyncio.ensure_future(self._poll())
        try:
            yield
        finally:
            self._commands -= 1
            if self._commands == 0:
                await self._stop()

    async def _stop(self) -> None:
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await polling

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = self._looked_at + self._limits.quota_poll_seconds
            await asyncio.sleep(due - loop.time())  # noqa: TID251 - the pace of a poll
            full = await self._is_too_full()
            self._looked_at = loop.time()
            if full:
                self._on_breach()

    async def _is_too_full(self) -> bool:
        try:
            usage = await measure(self._folder, self._programs)
        except TimeoutError:
            return True  # more than can be counted
        before, self._excess = self._excess, usage if usage.exceeds(self._limits) else None
        grown = self._excess is not None and (before is None or usage.is_more_than(before))
        return grown or _volume_is_full(self._folder, self._limits)


async def measure(folder: Path, programs: Programs) -> Usage:
    """Counted by a process of its own, for a scan in a thread would hold the interpreter.

    Only numbers come back, so no name in the folder can lie about sizes.
    """
    scan = await spawn(
        *as_owner(programs),
        *("find", "-P", str(folder), "-xdev", "-printf", r"%b\n"),
        stdout=PIPE,
    )  # what it says of files that vanish meanwhile goes nowhere
    printed, _ = await output_of(scan, timeout_seconds=SCAN_SECONDS_MAX)
    blocks = [int(line) for line in printed.split()]
    return Usage(bytes=sum(blocks) * _BLOCK_BYTES, files=len(blocks))


def _volume_is_full(folder: Path, limits: Limits) -> bool:
    volume = os.statvfs(folder)
    return volume.f_bavail * volume.f_frsize < limits.free_bytes_min
