"""The key of one run: derived when it is needed, kept alive while a worker holds the run."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from runs_domain.faults import log_fault
from runs_domain.ids import run_key_id
from runs_domain.ports import Clock, KeyIssuer, KeyLeases, RunKey
from runs_domain.scopes import RUN_KEY_SCOPES
from workers.held_run import HeldRun

logger = logging.getLogger(__name__)

RENEWALS_PER_TTL: Final = 3
"""So that two renewals in a row may fail before a live run loses its key (incident I-34)."""
RETRY_SECONDS: Final = 1.0


class RunKeys:
    def __init__(
        self,
        issuer: KeyIssuer,
        leases: KeyLeases,
        clock: Clock,
        *,
        secret_version: int,
        ttl_seconds: int,
    ) -> None:
        self._issuer = issuer
        self._leases = leases
        self._clock = clock
        self._secret_version = secret_version
        self._ttl_seconds = ttl_seconds

    def key_of(self, held: HeldRun) -> RunKey:
        """The key that the run has, or the one it will be given: the same in any worker."""
        minted = held.state.key
        return self._issuer.derive(
            run_key_id(held.run_id) if minted is None else minted.key_id,
            held.run_id,
            secret_version=self._secret_version if minted is None else minted.secret_version,
            ttl_seconds=self._ttl_seconds if minted is None else minted.ttl_seconds,
            scopes=RUN_KEY_SCOPES if minted is None else minted.scopes,
        )

    async def renew(self, held: HeldRun) -> None:
        """A key that is gone interrupts the run: it fails at once, with a reason (I-35)."""
        minted = held.state.key
        if minted is None or held.state.ending is not None:
            return
        renewed = await self._leases.renew(
            held.run_id, minted.key_id, ttl_seconds=minted.ttl_seconds
        )
        if not renewed:
            held.key_lost = True
            held.interrupt.set()

    @asynccontextmanager
    async def kept_alive(self, held: HeldRun) -> AsyncIterator[None]:
        task = asyncio.create_task(self._renew_for_ever(held))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _renew_for_ever(self, held: HeldRun) -> None:
        while True:
            minted = held.state.key
            ttl_seconds = self._ttl_seconds if minted is None else minted.ttl_seconds
            await self._clock.sleep(ttl_seconds / RENEWALS_PER_TTL)
            while True:
                try:
                    await self.renew(held)
                    break
                except Exception as error:  # noqa: BLE001 - a live run keeps its key (I-34)
                    log_fault(logger, f"run {held.run_id}: its key was not renewed", error)
                    await self._clock.sleep(RETRY_SECONDS)
