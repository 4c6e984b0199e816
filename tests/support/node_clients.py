"""The AI SDK's real clients, in a Node process of their own; `tests/node/clients.mjs` is its side.

Several clients watch at once; each says in the end what it saw and what it made of it.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

Json = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "node"
VERSIONS = ("newest", "oldest")
ANSWER_SECONDS = 45.0
STOP_SECONDS = 10.0

CHAT_API = "/api/chat"
RUNS_API = "/api/chat/runs"


@dataclass(frozen=True)
class Seen:
    """What one client saw; `messages` is its whole chat, None for a bare transport."""

    name: str
    chunks: list[Json]
    requests: list[tuple[str, str, int]]
    """Method, path with query, status."""
    cuts: int
    messages: list[Json] | None = None
    status: str | None = None
    error: str | None = None
    errors: list[str] | None = None
    """After the first, of a client that goes on after one."""

    @property
    def last_type(self) -> str:
        return str(self.chunks[-1]["type"]) if self.chunks else ""


def _missing() -> str | None:
    if shutil.which("node") is None:
        return "there is no Node.js: the AI SDK's real clients did not judge the stream"
    if not (FOLDER / "node_modules" / ".locked").is_file():
        return "scripts/_node has not installed the AI SDK's clients: none judged the stream"
    return None


MISSING = _missing()
"""What real clients need and this machine has not."""


class NodeClients:
    """Clients of one version. Each call has its own deadline, here and there."""

    def __init__(self, process: "subprocess.Popen[str]", answers: IO[str]) -> None:
        self._process = process
        self._answers = answers

    def send(self, text: str, model: str) -> Json:
        """Start a run as a chat does, by its transport alone; what the API answered."""
        watcher = {"name": "workflow sends", "transport": "workflow", "api": RUNS_API}
        answer = self._ask(op="send", watcher=watcher, text=text, model=model)
        assert "runId" in answer, answer
        return answer

    def watch(self, *watchers: Json) -> None:
        """Let more clients come; returns when each is connected."""
        self._ask(op="watch", watchers=watchers)

    def see(self, chunk_type: str) -> None:
        """Returns when each client got a chunk of this type, or has ended."""
        self._ask(op="sees", type=chunk_type)

    def results(self) -> dict[str, Seen]:
        """What each saw, by name, once all have ended; none may have complained."""
        answer = self._ask(op="results")
        assert answer["complaints"] == []
        seen = [_seen(result) for result in answer["results"]]
        return {one.name: one for one in seen}

    def rebuild(self, stream: str) -> Seen:
        """What a chat makes of a whole stream; no server is asked."""
        return _seen(self._ask(op="rebuild", stream=stream))

    def model_messages(self, messages: list[Json]) -> list[Json]:
        """What the SDK makes of stored messages; an AssertionError if it finds them invalid."""
        converted: list[Json] = self._ask(op="check", messages=messages)["messages"]
        return converted

    def _ask(self, **request: Any) -> Json:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer says it
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        ready, _, _ = select.select([self._answers], [], [], ANSWER_SECONDS)
        assert ready, f"no answer to {request['op']} within {ANSWER_SECONDS:g} s"
        line = self._answers.readline()
        assert line, f"the clients ended at {request['op']}: see standard error"
        answer: Json = json.loads(line)
        return answer


def _seen(result: Json) -> Seen:
    requests = [(method, path, status) for method, path, status in result.pop("requests")]
    return Seen(requests=requests, **result)


@contextlib.contextmanager
def node_clients(version: str, base_url: str, api_key: str) -> Iterator[NodeClients]:
    """`version` is a folder of `tests/node`. What they print stays on our standard error."""
    environment = {"PATH": os.environ["PATH"], "RUNLEDGER_API_KEY": api_key}
    with subprocess.Popen(  # noqa: S603 - our own argv
        ["node", "clients.mjs", version, base_url],  # noqa: S607 - node is where PATH says
        cwd=FOLDER,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield NodeClients(process, process.stdout)
        finally:
            process.kill()
            process.wait(STOP_SECONDS)
