"""A worker and a real OpenAI-compatible server: what each sees of the other's trouble."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from runs_domain import events as e
from runs_domain.commands import RequestCancel
from runs_domain.handle import handle
from runs_domain.settings import Secret
from tests.support.builders import RUN
from tests.support.driving import World
from tests.support.model_server import CUT, DONE, ModelServer, finish, model_server, text, usage
from tests.support.waiting import until
from workers.adapters.model_openai import OpenAIModel

MODEL = "acme/small"
END = ["completed", "key_revoked", "sandbox_released"]


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with model_server() as running:
        yield running


@pytest.fixture
async def world(server: ModelServer) -> AsyncIterator[World]:
    model = OpenAIModel(server.base_url, Secret("k"), total_seconds=30)
    made = World(model)
    await made.request("Hello", MODEL)
    yield made
    await model.close()


def answers(server: ModelServer) -> None:
    server.reply(text("Hi"), finish("stop"), usage(3, 2), DONE)


def keys_seen(server: ModelServer) -> list[str]:
    return [asked.headers["idempotency-key"] for asked in server.requests]


async def test_a_busy_server_is_asked_again_after_the_pause_that_it_asks_for(
    server: ModelServer, world: World
) -> None:
    server.reply(status=503, headers={"retry-after": "7"}, body={"error": {"message": "busy"}})
    answers(server)

    await world.drive()

    assert (await world.tags())[-3:] == END
    assert world.clock.slept_seconds >= 7
    first, second = keys_seen(server)
    assert first != second, "a server that keeps answers would repeat the 503"
    assert server.requests[0].body == server.requests[1].body


async def test_an_answer_that_breaks_off_is_kept_shown_and_asked_for_anew(
    server: ModelServer, world: World
) -> None:
    server.reply(text("H"), CUT)
    answers(server)

    await world.drive()

    texts = [part["text"] for part in (await world.state()).parts if part["type"] == "text"]
    assert texts == ["H", "Hi"]
    assert server.requests[0].body == server.requests[1].body, "the model never sees the first"


async def test_a_request_still_under_way_for_a_lost_worker_is_waited_for(
    server: ModelServer, world: World
) -> None:
    server.reply(status=409, body={"error": {"message": "in progress"}})
    answers(server)

    await world.drive()

    assert (await world.tags())[-3:] == END


async def test_I_31_a_cancel_closes_the_connection_to_the_models_server(
    server: ModelServer, world: World
) -> None:
    server.reply(text("H"), asyncio.Event())
    driving = asyncio.create_task(world.drive())
    await until(lambda: len(server.requests) == 1)

    await handle(world.log, RUN, RequestCancel(by="key:1", why="client"), world.context("key:1"))
    world.pushes.push(RUN)
    await driving

    await until(server.left.is_set)
    assert isinstance((await world.state()).ending, e.Cancelled)
    assert len(server.requests) == 1
