"""The AI SDK's own clients judge the stream: what they rebuild is what is stored (invariant 7).

Each story is watched by many clients at once: before its first chunk, cut off after every chunk,
and after its end. A stream that a client finds fault with, at any place, fails its story.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from runs_domain.frames import decode
from runs_domain.stream_reader import StreamReader
from tests.support.node_clients import (
    CHAT_API,
    MISSING,
    RUNS_API,
    VERSIONS,
    NodeClients,
    Seen,
    node_clients,
)
from tests.support.rest import ECHO, PLAYBOOK, Rest, Run, bash
from workers.stack.stack import Stack

pytestmark = [pytest.mark.node, pytest.mark.skipif(bool(MISSING), reason=str(MISSING))]

LIVE_CUTS = range(24)
"""No story has so many chunks before its last step."""
REJECTED = "The scripted model rejected the request"


@dataclass(frozen=True)
class Story:
    prompt: str
    parts: tuple[str, ...]
    """Of the assistant's message: type and state."""
    status: str = "completed"
    model: str = PLAYBOOK
    cancel_at: str | None = None
    """Somebody cancels the run once each client has seen such a chunk."""
    error: str | None = None
    """What the clients show of a run that failed."""


def playbook(*calls: dict[str, Any]) -> str:
    return json.dumps({"calls": calls})


LOST_FILE = {"name": "read", "input": {"file_path": "lost.txt"}}
HEARD_ALL_OF_IT = ("step-start", "text done")

STORIES = {
    "text": Story("Wind, sea\nand 🌊 naïve\u2028lines", HEARD_ALL_OF_IT, model=ECHO),
    "nothing said": Story(playbook({}), ("step-start",)),
    "tools": Story(
        playbook(
            {
                "text": "I look twice.",
                "tools": [{"name": "bash", "input": {"command": "echo $((6*7))"}}, LOST_FILE],
            },
            {"text": "It is 42."},
        ),
        (
            *HEARD_ALL_OF_IT,
            "tool-bash output-available",
            "tool-read output-error",
            *HEARD_ALL_OF_IT,
        ),
    ),
    "an unknown tool": Story(
        playbook(
            {"tools": [{"name": "beam-me up", "input": {"to": None}}]}, {"text": "Then I walk."}
        ),
        ("step-start", "tool-beam-me up output-error", *HEARD_ALL_OF_IT),
    ),
    "a rejected model": Story(playbook({"error": "rejected"}), (), "failed", error=REJECTED),
    "a model rejected in the middle": Story(
        playbook(bash("true"), {"error": "rejected"}),
        (*HEARD_ALL_OF_IT, "tool-bash output-available"),
        "failed",
        error=REJECTED,
    ),
    "cancelled while it speaks": Story(
        playbook({"text": "First second", "delta_ms": 60_000}),
        HEARD_ALL_OF_IT,
        "cancelled",
        cancel_at="text-delta",
    ),
    "cancelled while it works": Story(
        playbook(bash("sleep 60"), {"text": "never said"}),
        (*HEARD_ALL_OF_IT, "tool-bash output-error"),
        "cancelled",
        cancel_at="tool-input-available",
    ),
}


@pytest.fixture(params=VERSIONS)
def clients(request: pytest.FixtureRequest, stack: Stack) -> Iterator[NodeClients]:
    details = stack.details
    with node_clients(request.param, details["baseUrl"], details["apiKey"]) as started:
        yield started


@contextmanager
def asleep(stack: Stack) -> Iterator[None]:
    """Runs stay queued meanwhile, so whoever comes now has come before the first chunk."""
    (worker,) = stack.details["pids"]["workers"]
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


@pytest.mark.parametrize("name", STORIES)
async def test_invariant_7_clients_rebuild_what_is_stored(
    name: str, clients: NodeClients, stack: Stack, rest: Rest
) -> None:
    story = STORIES[name]
    with asleep(stack):
        run = Run(**snake(clients.send(story.prompt, story.model)))
        before = await rest.messages(run)
        clients.watch(*live_watchers(run, before))
    if story.cancel_at is not None:
        clients.see(story.cancel_at)
        assert (await rest.cancel(run)).is_success
    live = clients.results()
    await rest.ended(run)
    stored, replayed = await rest.messages(run), await rest.replay(run)
    assert StreamReader().read(decode(chunk) for chunk in replayed).finished
    chunks = [json.loads(chunk) for chunk in replayed]
    clients.watch(*late_watchers(run, before, stored, len(chunks)))
    late = clients.results()

    assert await rest.status(run) == story.status
    assert [shape(part) for part in stored[-1]["parts"]] == list(story.parts)
    # Nothing comes of an empty message, and the oldest client's check refuses it.
    assert clients.model_messages([one for one in stored if one["parts"]])
    for seen in (*live.values(), *late.values()):
        if seen.messages is not None:
            assert seen.messages == shown(stored, seen.name), seen.name
    check_live(live, run, chunks, story)
    check_late(late, run, chunks, story)


def snake(said: dict[str, str]) -> dict[str, str]:
    return {name.replace("Id", "_id"): value for name, value in said.items()}


def shape(part: dict[str, Any]) -> str:
    return " ".join(part[key] for key in ("type", "state") if key in part)


def shown(stored: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """`readUIMessageStream` says nothing of a step that begins until something is in it."""
    *before, last = stored
    bare = name == "default reads" and last["parts"][-1:] == [{"type": "step-start"}]
    return [*before, {**last, "parts": last["parts"][:-1]}] if bare else stored


def check_error(seen: Seen, story: Story) -> None:
    assert seen.error == story.error, seen.name
    assert not seen.errors, seen.name
    if seen.status is not None:
        assert seen.status == ("ready" if story.error is None else "error"), seen.name


# ------------------------------------------------------------------ those that come in time


def live_watchers(run: Run, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    default = {"transport": "default", "api": CHAT_API, "id": run.chat_id, "messages": before}
    workflow = {"transport": "workflow", "api": RUNS_API, "id": run.run_id, "messages": before}
    return [
        {"name": "default resumes", "how": "chat", **default},
        {"name": "default reads", "how": "read", **default},
        {"name": "workflow drains", "how": "drain", **workflow},
        *(
            {"name": f"cut after {count}", "how": "chat", "cutAfter": count, **workflow}
            for count in LIVE_CUTS
        ),
    ]


def check_live(live: dict[str, Seen], run: Run, chunks: list[dict[str, Any]], story: Story) -> None:
    path = f"{RUNS_API}/{run.run_id}/stream?startIndex="
    drained = live.pop("workflow drains")
    assert drained.requests == [("GET", f"{path}0", 200)]
    assert drained.chunks == chunks
    assert (drained.last_type, drained.error) == ("finish", None)
    for seen in live.values():
        check_error(seen, story)
    sender = live.pop("workflow sends")
    assert sender.requests == [("POST", RUNS_API, 202), ("GET", f"{path}0", 200)]
    for name in ("default resumes", "default reads"):
        assert live.pop(name).requests == [("GET", f"{CHAT_API}/{run.chat_id}/stream", 200)]
    for count, seen in zip(LIVE_CUTS, live.values(), strict=True):
        check_cut(seen, count, path, chunks)


def check_cut(seen: Seen, count: int, path: str, chunks: list[dict[str, Any]]) -> None:
    """One more request, from the first chunk that is missing; none where nothing is."""
    told = count_of_told(chunks)
    assert seen.chunks[:told] == chunks[:told], seen.name
    first, *again = seen.requests
    assert first == ("GET", f"{path}0", 200)
    if count < told:
        assert seen.cuts == 1, seen.name
        assert again == [("GET", f"{path}{count}", 200)], seen.name
    elif told == len(chunks):
        assert not again, seen.name


def count_of_told(chunks: list[dict[str, Any]]) -> int:
    """A chat stops reading at an error."""
    types = [chunk["type"] for chunk in chunks]
    return types.index("error") + 1 if "error" in types else len(types)


# ------------------------------------------------------------------ those that come too late


def late_watchers(
    run: Run, before: list[dict[str, Any]], stored: list[dict[str, Any]], length: int
) -> list[dict[str, Any]]:
    default = {"transport": "default", "api": CHAT_API, "id": run.chat_id}
    workflow = {"transport": "workflow", "api": CHAT_API, "id": run.chat_id, "messages": before}
    again = {"messages": before, "startIndex": 0}
    return [
        {"name": "default resumes", "how": "chat", "messages": stored, **default},
        {"name": "default replays", "how": "chat", **again, **default},
        {"name": "default reads", "how": "read", **again, **default},
        *(
            {"name": f"starts at {start}", "how": "drain", "startIndex": start, **workflow}
            for start in starts(length)
        ),
        *(
            {"name": f"cut after {count}", "how": "chat", "cutAfter": count, **workflow}
            for count in range(length + 1)
        ),
    ]


def starts(length: int) -> list[int]:
    return [*range(length + 1), -1, -3, -1000]


def check_late(late: dict[str, Seen], run: Run, chunks: list[dict[str, Any]], story: Story) -> None:
    path = f"{CHAT_API}/{run.chat_id}/stream"
    resumed = late["default resumes"]
    assert resumed.requests == [("GET", path, 204)]
    assert (resumed.status, resumed.chunks) == ("ready", [])
    for name in ("default replays", "default reads"):
        check_error(late[name], story)
        assert late[name].requests == [("GET", f"{path}?startIndex=0", 200)]
    assert late["default reads"].chunks == chunks
    for start in starts(len(chunks)):
        seen = late[f"starts at {start}"]
        assert seen.chunks == chunks[start:], seen.name
        status = 204 if start == len(chunks) else 200
        assert seen.requests == [("GET", f"{path}?startIndex={start}", status)]
        assert seen.error == ("Failed to fetch chat: 204 " if status == 204 else None)
    for count in range(len(chunks) + 1):
        check_error(late[f"cut after {count}"], story)
        check_cut(late[f"cut after {count}"], count, f"{path}?startIndex=", chunks)
