"""A client of the API, as users write one: start a run, watch it, read it back, stop it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

from tests.support.waiting import until
from tests.support.watch import Watch

ECHO = "scripted/echo"
PLAYBOOK = "scripted/playbook"
SPEECH = " ".join(f"word{number}" for number in range(50))
SPEAK: dict[str, Any] = {"text": SPEECH, "delta_ms": 30}
"""A model call that speaks for a second and a half."""
CALL_SECONDS = 15.0
END_SECONDS = 40.0


class Run(NamedTuple):
    run_id: str
    chat_id: str
    session_id: str


class Rest:
    """`async with Rest(url, key) as rest:`; `rest.http` is for what has no method here."""

    def __init__(self, base_url: str, key: str, *, bearer: bool = False) -> None:
        headers = {"authorization": f"Bearer {key}"} if bearer else {"x-api-key": key}
        self.http = httpx.AsyncClient(
            base_url=base_url, headers=headers, timeout=CALL_SECONDS, trust_env=False
        )

    async def start(self, prompt: str, model: str = ECHO, **fields: Any) -> Run:
        response = await self.http.post(
            "/api/chat/runs", json={"prompt": prompt, "model": model, **fields}
        )
        assert response.status_code == 202, response.text
        said = response.json()
        return Run(said["runId"], said["chatId"], said["sessionId"])

    async def play(self, *calls: dict[str, Any]) -> Run:
        """A run of `scripted/playbook`: one dict a model call."""
        return await self.start(json.dumps({"calls": calls}), PLAYBOOK)

    async def status(self, run: Run) -> str:
        return str((await self._get(f"/api/chat/runs/{run.run_id}"))["status"])

    async def history(self, run: Run) -> list[dict[str, Any]]:
        return list((await self._get(f"/api/chat/runs/{run.run_id}/events"))["data"])

    async def tags(self, run: Run) -> list[str]:
        """The types of the run's events, without `run.` and `.v1`."""
        return [tag_of(event) for event in await self.history(run)]

    async def messages(self, run: Run) -> list[dict[str, Any]]:
        return list((await self._get(f"/api/chats/{run.chat_id}/messages"))["data"])

    async def cancel(self, run: Run) -> httpx.Response:
        return await self.http.post(f"/api/chat/runs/{run.run_id}/cancel")

    @asynccontextmanager
    async def watching(self, run: Run, *, start_index: int = 0) -> AsyncIterator[Watch]:
        """Follow the run's stream beside what the test does."""
        watch = Watch(self.http, f"/api/chat/runs/{run.run_id}/stream", start_index)
        task = asyncio.create_task(watch.follow())
        try:
            yield watch
        finally:
            if not watch.done:  # else the server closes; a cancel there would leak the connection
                task.cancel()
            await asyncio.wait({task})

    async def replay(self, run: Run, *, start_index: int = 0) -> list[bytes]:
        """The chunks that a reader gets who comes after the end."""
        async with self.watching(run, start_index=start_index) as watch:
            return await watch.finished()

    async def reached(self, run: Run, tag: str) -> None:
        """Wait until the run's history has an event of this type."""

        async def has_it() -> bool:
            return tag in await self.tags(run)

        await until(has_it, timeout_seconds=END_SECONDS)

    async def ended(self, run: Run) -> list[dict[str, Any]]:
        """Wait for the last event that the run will ever have; the whole history."""
        await self.reached(run, "sandbox_released")
        return await self.history(run)

    async def _get(self, path: str) -> dict[str, Any]:
        response = await self.http.get(path)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.http.aclose()


def tag_of(event: dict[str, Any]) -> str:
    return str(event["type"]).removeprefix("run.").removesuffix(".v1")


def bash(command: str, *, text: str = "working") -> dict[str, Any]:
    """A model call of a playbook that says `text` and runs one command."""
    return {"text": text, "tools": [{"name": "bash", "input": {"command": command}}]}


def parts_of(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [part for part in message["parts"] if part["type"] == kind]
