"""A run's network: its namespaces and its broker, made with the first command."""

import asyncio
import contextlib

import httpx

from runs_domain.errors import SandboxUnavailable
from workers.adapters.sandbox_local.broker import Broker, Key
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.netns import make_namespaces
from workers.adapters.sandbox_local.process import Place
from workers.adapters.sandbox_local.programs import Programs
from workers.adapters.sandbox_local.workspace import Workspace


class RunNetwork:
    def __init__(
        self,
        workspace: Workspace,
        programs: Programs,
        limits: Limits,
        *,
        api_base_url: str,
        key: Key | None,
        client: httpx.AsyncClient,
    ) -> None:
        self._workspace = workspace
        self._programs = programs
        self._limits = limits
        self._broker = Broker(api_base_url, key, client)
        self._place: Place | None = None
        self._making = asyncio.Lock()
        self._closed = False

    def use_key(self, key: Key) -> None:
        self._broker.key = key

    async def place(self) -> Place:
        """Where commands start; made once. Raises SandboxUnavailable."""
        async with self._making:
            if self._closed:
                raise SandboxUnavailable("the sandbox was closed; open it again")
            if self._place is None:
                self._place = await self._make()
            return self._place

    async def _make(self) -> Place:
        workspace = self._workspace
        namespaces, listener = await make_namespaces(
            workspace.base, workspace.owner, self._programs, self._limits
        )
        with contextlib.ExitStack() as undo:
            undo.callback(namespaces.close)
            undo.callback(listener.close)
            await self._broker.start(listener)
            undo.pop_all()
        return Place(workspace.base, namespaces, self._programs, self._limits)

    async def close(self) -> None:
        async with self._making:
            self._closed = True
            await self._broker.close()
            if self._place is not None:
                self._place.namespaces.close()
                self._place = None
