"""What a real model server sees of a worker that is killed in the middle of its call."""

import asyncio

import msgspec
import pytest

from tests.support.model_server import (
    DONE,
    ModelServer,
    Received,
    call,
    finish,
    model_server,
    text,
    usage,
)
from tests.support.rest import Rest, parts_of
from tests.support.run_story import check_story
from tests.support.stacks import BreakableStack, kill

pytestmark = pytest.mark.crash


@pytest.mark.settings(model_base_url="http://127.0.0.1:9/v1", lease_seconds="1")
async def test_invariant_2_the_next_worker_sends_the_same_request_under_the_same_key(
    broken: BreakableStack, client: Rest
) -> None:
    """The API only has to believe in a gateway; workers are told where it is."""
    async with model_server() as server:
        plan_replies(server)
        first = broken.start_worker(model_base_url=server.base_url)
        run = await client.start("Look around", "acme/small")
        async with client.watching(run) as watch:
            await watch.says("I ")
            kill(first)
            broken.start_worker(model_base_url=server.base_url)
            reader = await check_story(client, run, watch)

    assert [part["text"] for part in parts_of(reader.message, "text")] == ["I ", "I saw it"]
    asked, lost, again = server.requests
    assert sent(lost) == sent(again)
    assert sent(asked) != sent(lost)


def plan_replies(server: ModelServer) -> None:
    """A tool call; then an answer that never ends; then the whole answer."""
    server.reply(
        call(0, '{"command": "date +%N"}', name="bash", id="x"), finish("tool_calls"), DONE
    )
    server.reply(text("I "), asyncio.Event())
    server.reply(text("I "), text("saw it"), finish("stop"), usage(3, 2), DONE)


def sent(request: Received) -> tuple[bytes, str]:
    """Body, byte for byte as far as JSON goes, and key."""
    return msgspec.json.encode(request.body), request.headers["idempotency-key"]
