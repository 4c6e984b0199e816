"""The provider `local`: sandboxes on this host, each a folder under the data directory."""

import asyncio
from pathlib import Path

import httpx

from runs_domain.errors import SandboxNotFound, SandboxUnavailable
from runs_domain.ids import RunId
from runs_domain.sandbox_port import Capabilities, SandboxSpec
from workers.adapters.sandbox_local.broker import Key, new_client
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.network import RunNetwork
from workers.adapters.sandbox_local.programs import find_programs
from workers.adapters.sandbox_local.sandbox import PROVIDER, LocalSandbox
from workers.adapters.sandbox_local.workspace import Workspace


class LocalSandboxProvider:
    """Raises SandboxUnavailable, with the remedy, where bubblewrap or util-linux is missing."""

    def __init__(self, data_dir: Path, *, api_base_url: str, limits: Limits | None = None) -> None:
        """`api_base_url` is where the broker forwards to; "" = runs have no API."""
        self.name = PROVIDER
        self.capabilities = Capabilities(streaming=True, detached=True, hibernate=True)
        self._programs = find_programs()
        self.root = data_dir.absolute() / "sandboxes"
        """Every sandbox is a folder in it."""
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._api_base_url = api_base_url
        self._limits = limits or Limits()
        self._client: httpx.AsyncClient | None = None
        self._open: dict[tuple[str, RunId | None], LocalSandbox] = {}

    async def open(self, spec: SandboxSpec, *, key: Key) -> tuple[LocalSandbox, bool]:
        workspace = Workspace(self.root, spec.name)
        if spec.must_exist and not workspace.is_made():
            raise SandboxNotFound(f"the sandbox {spec.name} is not on this host")
        try:
            async with asyncio.timeout(self._limits.file_seconds):
                created = await asyncio.to_thread(workspace.make, spec)
        except TimeoutError as error:
            raise SandboxUnavailable("the data directory's volume does not answer") from error
        return self._handle(workspace, spec.run_id, key), created

    async def find(self, name: str) -> LocalSandbox | None:
        """A half-made one too, for it must be destroyed like any other."""
        workspace = Workspace(self.root, name)
        return self._handle(workspace, None, None) if workspace.stands() else None

    async def close(self) -> None:
        for sandbox in tuple(self._open.values()):
            await sandbox.close()
        self._open.clear()
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _handle(self, workspace: Workspace, run: RunId | None, key: Key | None) -> LocalSandbox:
        """The one handle that this process has for the sandbox and the run."""
        known = self._open.get((workspace.name, run))
        if known is not None and not known.closed:
            if key is not None:
                known.network.use_key(key)
            return known
        if self._client is None:
            self._client = new_client()
        network = RunNetwork(
            workspace,
            self._programs,
            self._limits,
            api_base_url=self._api_base_url,
            key=key,
            client=self._client,
        )
        sandbox = LocalSandbox(
            workspace,
            network,
            self._programs,
            self._limits,
            destroy=self._destroy,
            forget=self._forget,
        )
        self._open[workspace.name, run] = sandbox
        return sandbox

    def _forget(self, sandbox: LocalSandbox) -> None:
        self._open = {place: known for place, known in self._open.items() if known is not sandbox}

    async def _destroy(self, workspace: Workspace) -> None:
        """Whoever asks: all runs' commands in it end first."""
        for place in [place for place in self._open if place[0] == workspace.name]:
            await self._open.pop(place).close()
        await workspace.remove(self._programs, self._limits)
