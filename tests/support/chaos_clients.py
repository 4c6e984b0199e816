"""Clients that will not be put off: they ask again until their run is taken, and look on."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from tests.support.chaos_blows import pause
from tests.support.chaos_plan import Errand
from tests.support.rest import Rest, Run
from tests.support.run_story import ENDINGS
from tests.support.watch import Watch

CLIENTS: Final = 24
AGAIN_SECONDS: Final = 0.2
LOOK_SECONDS: Final = 0.3
PATIENCE_SECONDS: Final = 40.0
"""Then a client goes on with its next run; the run is looked for in the end all the same."""
KEEP_SECONDS: Final = 0.03
SERVER_BUSY: Final = {httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS}


@dataclass
class Accepted:
    errand: Errand
    run: Run
    watch: Watch | None = None
    """What its client saw to the end."""


@dataclass
class Clients:
    rest: Rest
    seed: int
    accepted: list[Accepted] = field(default_factory=list)
    asked_again: int = 0
    """Requests that were answered by 503 or by nothing."""

    async def run_errands(self, errands: Sequence[Errand]) -> None:
        waiting = iter(errands)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._one_client(waiting))

    async def _one_client(self, waiting: Iterator[Errand]) -> None:
        for errand in waiting:
            body = {"prompt": errand.prompt, "model": errand.model}
            key = {"idempotency-key": f"chaos-{self.seed}-{errand.number}"}
            answer = await self._asked("POST", "/api/chat/runs", json=body, headers=key)
            assert answer.status_code == httpx.codes.ACCEPTED, answer.text
            said = answer.json()
            run = Run(said["runId"], said["chatId"], said["sessionId"])
            accepted = Accepted(errand, run)
            self.accepted.append(accepted)
            await self._look_on(accepted)

    async def _look_on(self, accepted: Accepted) -> None:
        errand, run = accepted.errand, accepted.run
        if errand.cancel_after_seconds is not None:
            await pause(errand.cancel_after_seconds)
            answer = await self._asked("POST", f"/api/chat/runs/{run.run_id}/cancel")
            assert answer.status_code in {200, 202}, answer.text
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await (self._watch(accepted) if errand.is_watched else self._until_ended(run))

    async def _watch(self, accepted: Accepted) -> None:
        path = f"/api/chat/runs/{accepted.run.run_id}/stream"
        watch = Watch(self.rest.http, path, start_index=0)
        await watch.follow()
        accepted.watch = watch

    async def _until_ended(self, run: Run) -> None:
        while True:
            answer = await self._asked("GET", f"/api/chat/runs/{run.run_id}")
            assert answer.status_code == httpx.codes.OK, answer.text  # never "not found"
            if answer.json()["status"] in ENDINGS:
                return
            await pause(LOOK_SECONDS)

    async def _asked(self, method: str, path: str, **options: object) -> httpx.Response:
        """The first answer that is one."""
        while True:
            try:
                answer = await self.rest.http.request(method, path, **options)  # type: ignore[arg-type]
            except httpx.TransportError:
                pass
            else:
                if answer.status_code not in SERVER_BUSY:
                    return answer
            self.asked_again += 1
            await pause(AGAIN_SECONDS)


async def keep_effects(sandboxes: Path, kept: Path) -> None:
    """Until cancelled: holds on to the file that a run's commands write, which its sandbox takes
    along when it is destroyed.
    """
    while True:
        _keep(sandboxes, kept)
        await pause(KEEP_SECONDS)


def _keep(sandboxes: Path, kept: Path) -> None:
    for sandbox in sandboxes.iterdir() if sandboxes.exists() else ():
        with suppress(FileNotFoundError, FileExistsError):  # none yet, or gone, or held already
            os.link(sandbox / "workspace" / "effects", kept / sandbox.name)
