"""The sandbox of one run, made when its first tool needs it and given back at the end."""

import asyncio
import logging
from types import TracebackType
from typing import Final, Self

from runs_domain.errors import SandboxUnavailable
from runs_domain.faults import log_fault
from runs_domain.ids import sandbox_name
from runs_domain.sandbox_port import Sandbox, SandboxProvider, SandboxSpec
from workers.held_run import HeldRun
from workers.interrupt import until_interrupted
from workers.run_keys import RunKeys

logger = logging.getLogger(__name__)

RELEASE_SECONDS_MAX: Final = 60.0
DETACH_SECONDS_MAX: Final = 10.0


class RunSandbox:
    def __init__(self, provider: SandboxProvider, keys: RunKeys, held: HeldRun) -> None:
        self._provider = provider
        self._keys = keys
        self._held = held
        self._open: Sandbox | None = None
        self._opening = asyncio.Lock()

    @property
    def _name(self) -> str:
        return sandbox_name(self._held.requested.session_id)

    async def get(self) -> Sandbox:
        """Opened once per worker. Raises SandboxNotFound if an earlier worker's is not here."""
        async with self._opening:
            if self._open is None:
                requested = self._held.requested
                spec = SandboxSpec(
                    name=self._name,
                    session_id=requested.session_id,
                    run_id=self._held.run_id,
                    account_id=requested.account_id,
                    must_exist=self._has_worked(),
                )
                self._open, _ = await self._provider.open(spec, key=self._key)
            return self._open

    async def _key(self) -> str:
        return self._keys.key_of(self._held).secret.reveal()

    def _has_worked(self) -> bool:
        """A tool has left something in it, here or at an earlier worker."""
        return any(part.get("state") == "output-available" for part in self._held.state.parts)

    async def release(self) -> bool:
        """Destroy it, whoever made it; False if there was none.

        Raises SandboxError, SandboxUnavailable after RELEASE_SECONDS_MAX.
        """
        try:
            found = await until_interrupted(self._destroy(), timeout_seconds=RELEASE_SECONDS_MAX)
        except TimeoutError:
            raise SandboxUnavailable(f"no release within {RELEASE_SECONDS_MAX:.0f} s") from None
        self._open = None
        return found

    async def _destroy(self) -> bool:
        sandbox = self._open or await self._provider.find(self._name)
        if sandbox is not None:
            await sandbox.destroy()
        return sandbox is not None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """A run that goes on elsewhere keeps its sandbox; what this process holds is let go."""
        if self._open is None:
            return
        try:
            await until_interrupted(self._open.detach(), timeout_seconds=DETACH_SECONDS_MAX)
        except Exception as fault:  # noqa: BLE001 - the run's own outcome is not changed by it
            log_fault(logger, f"run {self._held.run_id}: its sandbox was not let go", fault)
        self._open = None
