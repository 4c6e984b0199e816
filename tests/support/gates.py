"""Lets a test decide, call by call, which of several workers goes on: the others stand still."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

WORKER: ContextVar[str | None] = ContextVar("WORKER", default=None)
"""Whose task this is; who has no name is let through everywhere."""


@dataclass(eq=False)
class Gate:
    worker: str
    call: str
    opened: asyncio.Future[None]


class Gates:
    def __init__(self) -> None:
        self.waiting: list[Gate] = []
        """In the order in which they came."""
        self._running = 0

    async def through(self, call: str) -> None:
        worker = WORKER.get()
        if worker is None:
            return
        gate = Gate(worker, call, asyncio.get_running_loop().create_future())
        self.waiting.append(gate)
        try:
            await gate.opened
        finally:
            if gate in self.waiting:
                self.waiting.remove(gate)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def open(self, gate: Gate) -> None:
        """Let one call happen, and what follows from it, up to the next gates."""
        self.waiting.remove(gate)
        gate.opened.set_result(None)
        await self.stand_still()

    async def stand_still(self) -> None:
        """Until every worker waits at a gate, or for something that only a gate can bring."""
        loop: Any = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)  # noqa: TID251 - gives way, does not wait
            if not self._running and not loop._ready:
                return


class Gated:
    """`port`, whose calls named in `calls` stop at a gate before they happen."""

    def __init__(self, port: Any, gates: Gates, *calls: str) -> None:
        self._port = port
        self._gates = gates
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if name not in self._calls:
            return method

        async def call(*args: Any, **options: Any) -> Any:
            await self._gates.through(name)
            with self._gates.running():
                return await method(*args, **options)

        return call
