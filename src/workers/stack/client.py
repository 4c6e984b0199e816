"""A plain HTTP client of the API, as the demo and the benchmarks use it."""

import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx

CALL_SECONDS_MAX: Final = 30.0
STREAM_SILENCE_SECONDS_MAX: Final = 60.0
"""The server says something every 15 s."""
END_SECONDS_MAX: Final = 60.0
LOOK_AGAIN_SECONDS: Final = 0.02
LAST_EVENT: Final = "run.sandbox_released.v1"


class Ended(NamedTuple):
    """A run that has ended, as its clients see it."""

    started: dict[str, Any]
    status: str
    history: list[dict[str, Any]]
    messages: list[dict[str, Any]]
    error: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            **self.started,
            "status": self.status,
            "events": [event["type"] for event in self.history],
            "messages": self.messages,
            **({} if self.error is None else {"error": self.error}),
            "text": "".join(
                part["text"]
                for message in self.messages
                if message["role"] == "assistant"
                for part in message["parts"]
                if part["type"] == "text"
            ),
        }


class Client:
    """Raises httpx.HTTPError for anything but success."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"x-api-key": api_key},
            timeout=httpx.Timeout(CALL_SECONDS_MAX, read=STREAM_SILENCE_SECONDS_MAX),
        )

    def start(self, prompt: str, model: str | None = None) -> dict[str, Any]:
        body = {"prompt": prompt} | ({} if model is None else {"model": model})
        response = self._http.post("/api/chat/runs", json=body)
        if response.is_client_error:
            raise httpx.HTTPStatusError(
                response.json()["error"], request=response.request, response=response
            )
        started: dict[str, Any] = response.raise_for_status().json()
        return started

    def stream(self, chat_id: str) -> Iterator[dict[str, Any]]:
        """The frames of the chat's run, from the first, up to its `finish`."""
        path = f"/api/chat/{chat_id}/stream"
        with self._http.stream("GET", path, params={"startIndex": 0}) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))

    def ended(self, started: dict[str, Any]) -> Ended:
        """Wait until nothing more will follow in the run's history, then read all of it."""
        run = f"/api/chat/runs/{started['runId']}"
        deadline = time.monotonic() + END_SECONDS_MAX
        while (history := self._get(f"{run}/events")["data"])[-1]["type"] != LAST_EVENT:
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {started['runId']} did not end in {END_SECONDS_MAX:g} s")
            time.sleep(LOOK_AGAIN_SECONDS)
        seen = self._get(run)
        return Ended(
            started=started,
            status=seen["status"],
            error=seen.get("error"),
            history=history,
            messages=self._get(f"/api/chats/{started['chatId']}/messages")["data"],
        )

    def _get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get(path).raise_for_status().json()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()
