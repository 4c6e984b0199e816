"""The adapter for OpenAI-compatible servers, against one over real sockets."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from runs_domain.errors import ModelError, ModelOverloaded, ModelRejected, ModelTimeout
from runs_domain.events import Usage
from runs_domain.ids import Attempt, RunId
from runs_domain.model_port import (
    ModelEnd,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolInput,
    ToolInputDelta,
    ToolInputStart,
    ToolSpec,
)
from runs_domain.settings import Secret
from tests.models.requests import closing, events_of, model_request, text_of
from tests.support.builders import user_message
from tests.support.model_server import (
    CUT,
    DONE,
    ModelServer,
    call,
    chunk,
    finish,
    model_server,
    text,
    usage,
)
from tests.support.waiting import until
from workers.adapters.model_openai import OpenAIModel

CANARY = "sk-canary-7d1f"
PROMPT = "prompt-canary-93ab"
HALF_PAST_EIGHT = "Wed, 21 Oct 2026 08:30:00 GMT"
NINE = "Wed, 21 Oct 2026 09:00:00 GMT"


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with model_server() as running:
        yield running


@pytest.fixture
async def model(server: ModelServer) -> AsyncIterator[OpenAIModel]:
    made = OpenAIModel(server.base_url, Secret(CANARY), total_seconds=30)
    yield made
    await made.close()


async def test_text_comes_piece_by_piece_and_ends_with_reason_usage_and_cost(
    server: ModelServer, model: OpenAIModel
) -> None:
    server.reply(text("Hel"), text("lo"), finish("stop"), usage(7, 2, cost=0.0000125), DONE)

    assert await events_of(model, model_request()) == [
        TextDelta(text="Hel"),
        TextDelta(text="lo"),
        ModelEnd(
            finish_reason="stop", usage=Usage(input_tokens=7, output_tokens=2), cost="0.0000125"
        ),
    ]


async def test_the_request_has_the_model_the_key_the_messages_and_the_tools(
    server: ModelServer, model: OpenAIModel
) -> None:
    server.reply(text("ok"), finish("stop"), DONE)
    tool = ToolSpec(name="bash", description="Run it", input_schema={"type": "object"})

    await events_of(model, model_request("Hello", system="Be brief", tools=(tool,)))

    [asked] = server.requests
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {CANARY}"
    assert asked.body == {
        "model": "acme/small",
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Hello"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "bash",
                    "description": "Run it",
                    "parameters": {"type": "object"},
                },
            }
        ],
    }


async def keys_of(server: ModelServer, model: OpenAIModel, *requests: ModelRequest) -> list[str]:
    """The idempotency keys that these requests are sent with."""
    for request in requests:
        server.reply(text("ok"), finish("stop"), DONE)
        await events_of(model, request)
    return [asked.headers["idempotency-key"] for asked in server.requests]


async def test_the_same_request_of_the_next_worker_has_the_same_idempotency_key(
    server: ModelServer, model: OpenAIModel
) -> None:
    taken_over = model_request(attempt=Attempt(2))

    first, again = await keys_of(server, model, model_request(), taken_over)

    assert first == again


@pytest.mark.parametrize(
    "change",
    [
        {"attempt_tries": 1},
        {"step": 1},
        {"run_id": RunId(UUID(int=7))},
        {"messages": (user_message("Say more"),)},
        {"system": "Be brief"},
    ],
    ids=["try", "step", "run", "messages", "prompt"],
)
async def test_another_request_has_an_idempotency_key_of_its_own(
    server: ModelServer, model: OpenAIModel, change: dict[str, Any]
) -> None:
    first, other = await keys_of(server, model, model_request(), model_request(**change))

    assert first != other


async def test_without_a_key_no_other_key_of_the_environment_is_sent(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, CANARY)
    server.reply(text("ok"), finish("stop"), DONE)
    model = OpenAIModel(server.base_url, Secret(""), total_seconds=30)

    await events_of(model, model_request())
    await model.close()

    assert CANARY not in str(server.requests[0].headers)


async def test_parallel_tool_calls_are_counted_by_us_and_pieced_together(
    server: ModelServer, model: OpenAIModel
) -> None:
    server.reply(
        call(0, "", name="read", id="x1"),
        call(0, '{"path"'),
        call(1, '{"command": "l', name="bash", id="x2"),
        call(0, ': "a"}'),
        call(1, 's"}'),
        finish("tool_calls"),
        DONE,
    )

    assert await events_of(model, model_request()) == [
        ToolInputStart(index=0, name="read"),
        ToolInputDelta(index=0, text='{"path"'),
        ToolInputStart(index=1, name="bash"),
        ToolInputDelta(index=1, text='{"command": "l'),
        ToolInputDelta(index=0, text=': "a"}'),
        ToolInputDelta(index=1, text='s"}'),
        ToolInput(index=0, input={"path": "a"}),
        ToolInput(index=1, input={"command": "ls"}),
        ModelEnd(finish_reason="tool-calls", usage=Usage()),
    ]


@pytest.mark.parametrize("arguments", ['{"path": ', "[1]", '"text"', "{" * 3000])
async def test_a_tool_input_that_is_no_object_is_an_error_of_that_call_alone(
    server: ModelServer, model: OpenAIModel, arguments: str
) -> None:
    server.reply(
        call(0, arguments, name="read", id="x1"),
        call(1, "", name="list", id="x2"),
        finish("tool_calls"),
        DONE,
    )

    first, second = [e for e in await events_of(model, model_request()) if isinstance(e, ToolInput)]

    assert first.input is None
    assert first.error is not None
    assert arguments not in first.error
    assert (second.input, second.error) == ({}, None)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
async def test_reasoning_is_told_apart_from_text(
    server: ModelServer, model: OpenAIModel, key: str
) -> None:
    server.reply(chunk({key: "hm"}), text("4"), finish("stop"), DONE)

    events = await events_of(model, model_request())

    assert events[:2] == [ReasoningDelta(text="hm"), TextDelta(text="4")]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ModelRejected),
        (401, ModelRejected),
        (404, ModelRejected),
        (422, ModelRejected),
        (307, ModelRejected),
        (408, ModelOverloaded),
        (409, ModelOverloaded),
        (425, ModelOverloaded),
        (429, ModelOverloaded),
        (500, ModelOverloaded),
        (503, ModelOverloaded),
    ],
)
async def test_a_refused_request_is_typed_by_what_to_do_next_and_asked_once(
    server: ModelServer, model: OpenAIModel, status: int, kind: type[ModelError]
) -> None:
    location = {"location": f"{server.base_url}/elsewhere"}
    server.reply(status=status, headers=location, body={"error": {"message": f"bad {CANARY}"}})

    with pytest.raises(kind, match=str(status)):
        await events_of(model, model_request())

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After-Ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": NINE, "date": HALF_PAST_EIGHT}, 1800.0),
        ({"retry-after": HALF_PAST_EIGHT, "date": NINE}, 0.0),
        ({"retry-after": NINE}, None),
        ({"retry-after": "Wed, 99 Foo", "date": NINE}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
async def test_what_an_overloaded_server_asks_for_is_told_with_its_refusal(
    server: ModelServer, model: OpenAIModel, headers: dict[str, str], seconds: float | None
) -> None:
    server.reply(status=503, headers=headers, body={"error": {"message": "busy"}})

    with pytest.raises(ModelOverloaded) as raised:
        await events_of(model, model_request())

    assert raised.value.retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 429, "message": CANARY}, ModelOverloaded),
        ({"code": 400, "message": CANARY}, ModelRejected),
        ({"code": "content_filter", "message": CANARY}, ModelRejected),
        ({"type": "invalid_request_error", "message": CANARY}, ModelRejected),
        ({"type": "overloaded_error", "message": CANARY}, ModelOverloaded),
        (CANARY, ModelOverloaded),
    ],
)
async def test_an_error_inside_the_stream_is_typed_too(
    server: ModelServer, model: OpenAIModel, error: Any, kind: type[ModelError]
) -> None:
    server.reply(text("Hel"), {"error": error})

    with pytest.raises(kind):
        await events_of(model, model_request())


async def test_invariant_6_no_key_content_or_body_shows_in_any_error_or_log(
    server: ModelServer, model: OpenAIModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.reply(status=400, body={"error": {"message": f"echo {CANARY} {PROMPT}"}})
    server.reply(text("x"), {"error": {"message": f"{CANARY} {PROMPT}"}})
    server.reply(text("x"), f"data: {CANARY}{PROMPT}\n\n")

    for _ in range(3):
        with pytest.raises(ModelError) as raised:
            await events_of(model, model_request(PROMPT))
        logging.getLogger("test").error("it failed", exc_info=raised.value)
        assert raised.value.__suppress_context__

    assert CANARY not in caplog.text
    assert PROMPT not in caplog.text
    assert CANARY not in repr(vars(model))


@pytest.mark.parametrize(
    "steps",
    [
        (text("Hel"), CUT),
        (text("Hel"),),
        (text("Hel"), DONE),
        (),
        (text("Hel"), "data: {not json\n\n"),
        (text("Hel"), {"choices": "none"}),
        (text("Hel"), finish("error"), DONE),
        (chunk({"tool_calls": [{"index": 0, "id": "x"}]}), finish("tool_calls"), DONE),
    ],
    ids=["cut", "no end", "done only", "empty", "not JSON", "other format", "error", "no name"],
)
async def test_an_answer_that_breaks_off_is_never_a_success(
    server: ModelServer, model: OpenAIModel, steps: tuple[Any, ...]
) -> None:
    server.reply(*steps)

    with pytest.raises(ModelOverloaded):
        await events_of(model, model_request())


async def test_an_answer_cut_off_after_its_finish_reason_is_whole(
    server: ModelServer, model: OpenAIModel
) -> None:
    server.reply(text("Hello"), finish("stop"), CUT)

    events = await events_of(model, model_request())

    assert text_of(events) == "Hello"
    assert events[-1] == ModelEnd(finish_reason="stop", usage=Usage())


async def test_a_server_that_is_not_there_is_overloaded_not_a_rejection() -> None:
    async with model_server() as server:
        gone = server.base_url
    model = OpenAIModel(gone, Secret("k"), total_seconds=30)

    with pytest.raises(ModelOverloaded):
        await events_of(model, model_request())

    await model.close()


@pytest.mark.parametrize(
    ("seconds", "first"),
    [
        ({"total_seconds": 30, "chunk_seconds": 0.05}, ()),
        ({"total_seconds": 30, "chunk_seconds": 0.05}, (text("Hel"),)),
        ({"total_seconds": 0.2, "chunk_seconds": 300}, ()),
        ({"total_seconds": 0.2, "chunk_seconds": 300}, (text("Hel"),)),
    ],
    ids=["no first chunk", "no next chunk", "no first chunk in all", "no end in all"],
)
async def test_a_silent_server_is_left_and_the_call_timed_out(
    server: ModelServer, seconds: dict[str, float], first: tuple[Any, ...]
) -> None:
    model = OpenAIModel(server.base_url, Secret("k"), **seconds)
    server.reply(*first, asyncio.Event())

    with pytest.raises(ModelTimeout):
        await events_of(model, model_request())

    await until(server.left.is_set)
    await model.close()


async def test_cancelling_the_call_closes_the_connection(
    server: ModelServer, model: OpenAIModel
) -> None:
    seen: list[Any] = []
    server.reply(text("Hel"), asyncio.Event())

    async def consume() -> None:
        async for event in model.stream(model_request()):
            seen.append(event)  # noqa: PERF401 - looked at from outside meanwhile

    task = asyncio.create_task(consume())
    await until(lambda: seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await until(server.left.is_set)


async def test_leaving_the_stream_closes_the_connection(
    server: ModelServer, model: OpenAIModel
) -> None:
    server.reply(text("Hel"), asyncio.Event())

    async with closing(model.stream(model_request())) as stream:
        assert await anext(stream) == TextDelta(text="Hel")

    await until(server.left.is_set)


async def test_a_token_is_handed_on_before_the_next_one_is_there(
    server: ModelServer, model: OpenAIModel
) -> None:
    gate = asyncio.Event()
    server.reply(": waiting\n\n", text("Hel"), gate, text("lo"), finish("stop"), DONE)

    stream = model.stream(model_request())
    first = await anext(stream)
    gate.set()
    rest = [event async for event in stream]

    assert first == TextDelta(text="Hel")
    assert rest[0] == TextDelta(text="lo")


async def test_u0000_and_lone_surrogates_become_u_fffd_in_text_and_tool_input(
    server: ModelServer, model: OpenAIModel
) -> None:
    server.reply(
        'data: {"choices":[{"delta":{"content":"a\\u0000b\\ud800"}}]}\n\n',
        call(0, json.dumps({"k\0": ["\0"]}), name="read", id="x"),
        finish("tool_calls"),
        DONE,
    )

    events = await events_of(model, model_request())

    assert events[0] == TextDelta(text="a\ufffdb\ufffd")
    assert ToolInput(index=0, input={"k\ufffd": ["\ufffd"]}) in events
