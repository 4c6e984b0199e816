"""The local model: the real one where its wheels are, and its thread and queue everywhere."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from runs_domain.errors import ModelOverloaded, ModelRejected, ModelTimeout
from runs_domain.events import Json, Usage
from runs_domain.model_ids import LOCAL, is_local_installed
from runs_domain.model_port import ModelEnd, TextDelta
from tests.models.requests import closing, events_of, model_request, text_of
from tests.support.waiting import until
from workers.adapters.model_local import CALLS_MAX, PROMPT_CHARS_MAX, LocalModel, local_messages
from workers.adapters.smollm import ANSWER_TOKENS_MAX

USED = SimpleNamespace(
    prompt_tokens=12,
    completion_tokens=3,
    prompt_tokens_details=SimpleNamespace(cached_tokens=5),
)


def chunk(text: str | None, finish_reason: str | None = None, usage: Any = None) -> Any:
    choice = SimpleNamespace(delta=SimpleNamespace(content=text), finish_reason=finish_reason)
    return SimpleNamespace(choices=[choice], usage=usage)


class Endless:
    """Says a word each time it is let to, until it is dropped (or forgotten by a broken test)."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.asked: list[Sequence[Json]] = []
        self.dropped = 0

    def __call__(self, messages: Sequence[Json]) -> Iterator[Any]:
        self.asked.append(messages)
        return self._words()

    def _words(self) -> Iterator[Any]:
        try:
            while self.gate.acquire(timeout=20):
                yield chunk("word ")
        finally:
            self.dropped += 1


def saying(*chunks: Any) -> Callable[[Sequence[Json]], Iterator[Any]]:
    return lambda _: iter(chunks)


async def test_an_answer_comes_out_in_pieces_with_usage_in_disjoint_classes() -> None:
    model = LocalModel(total_seconds=30, answer=saying(chunk("a\0"), chunk(" b", "stop", USED)))

    assert await events_of(model, model_request()) == [
        TextDelta(text="a\ufffd"),
        TextDelta(text=" b"),
        ModelEnd(
            finish_reason="stop",
            usage=Usage(input_tokens=7, cached_input_tokens=5, output_tokens=3),
            cost="0",
        ),
    ]
    await model.close()


async def test_cancelling_a_call_stops_the_generation_and_frees_the_thread() -> None:
    endless = Endless()
    model = LocalModel(total_seconds=30, answer=endless)
    endless.gate.release()
    async with closing(model.stream(model_request())) as stream:
        assert await anext(stream) == TextDelta(text="word ")
    endless.gate.release()
    await until(lambda: endless.dropped)

    endless.gate.release()
    async with closing(model.stream(model_request())) as stream:
        assert await anext(stream) == TextDelta(text="word ")
    endless.gate.release()
    await model.close()


async def test_calls_wait_their_turn_and_one_too_many_is_overloaded() -> None:
    endless = Endless()
    model = LocalModel(total_seconds=30, answer=endless)
    calls = [asyncio.create_task(events_of(model, model_request())) for _ in range(CALLS_MAX)]
    await until(lambda: endless.asked)

    with pytest.raises(ModelOverloaded):
        await events_of(model, model_request())

    assert len(endless.asked) == 1
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    endless.gate.release()
    await until(lambda: endless.dropped)
    assert len(endless.asked) == 1
    await model.close()


async def test_a_call_that_is_still_waiting_at_its_deadline_times_out() -> None:
    endless = Endless()
    model = LocalModel(total_seconds=0.05, answer=endless)

    with pytest.raises(ModelTimeout):
        await events_of(model, model_request())

    endless.gate.release()
    await model.close()


async def test_closing_ends_calls_that_wait_and_calls_that_run() -> None:
    endless = Endless()
    model = LocalModel(total_seconds=30, answer=endless)
    calls = [asyncio.create_task(events_of(model, model_request())) for _ in range(2)]
    await until(lambda: endless.asked)

    await model.close()
    endless.gate.release()
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(result) for result in results] == [ModelOverloaded, ModelOverloaded]


@pytest.mark.parametrize("chunks", [(), (chunk("Hel"),)])
async def test_an_answer_without_a_finish_reason_is_never_a_success(chunks: Any) -> None:
    model = LocalModel(total_seconds=30, answer=saying(*chunks))

    with pytest.raises(ModelOverloaded):
        await events_of(model, model_request())

    await model.close()


async def test_a_failure_of_the_runtime_is_told_by_its_kind_alone() -> None:
    def broken(_: Sequence[Json]) -> Iterator[Any]:
        raise ValueError("prompt-canary")

    model = LocalModel(total_seconds=30, answer=broken)

    with pytest.raises(ModelOverloaded, match=r"^The local model failed \(ValueError\)$"):
        await events_of(model, model_request())

    await model.close()


def test_the_newest_texts_that_fit_are_shown() -> None:
    def message(role: str, text: str) -> Json:
        return {"id": "m", "role": role, "parts": [{"type": "text", "text": text}]}

    shown = local_messages(
        (
            message("system", "be rude"),
            message("user", "x" * PROMPT_CHARS_MAX),
            message("assistant", "old answer"),
            message("user", "new question"),
        )
    )

    assert [m["role"] for m in shown] == ["system", "user", "assistant", "user"]
    assert shown[0]["content"] != "be rude"
    assert shown[-1]["content"] == "new question"
    assert sum(len(m["content"]) for m in shown[1:]) == PROMPT_CHARS_MAX


def test_a_conversation_without_a_user_text_is_rejected() -> None:
    with pytest.raises(ModelRejected):
        local_messages(({"id": "m", "role": "user", "parts": [{"type": "text", "text": " "}]},))


@pytest.mark.skipif(not is_local_installed(), reason="the local model's wheels are not installed")
async def test_the_real_model_streams_an_answer_token_by_token() -> None:
    model = LocalModel(total_seconds=55)
    request = model_request("Write one sentence about the sea", model=LOCAL)

    events = await events_of(model, request)

    end = events[-1]
    assert isinstance(end, ModelEnd)
    assert end.finish_reason in {"stop", "length"}
    assert 0 < end.usage.output_tokens <= ANSWER_TOKENS_MAX
    assert end.usage.input_tokens + end.usage.cached_input_tokens > 10
    assert len(events) > 3
    assert len(text_of(events).split()) > 3
    await model.close()
