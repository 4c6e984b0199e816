"""The scripted models do exactly what the text they are given says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs_domain.errors import ModelError, ModelOverloaded, ModelRejected, ModelTimeout
from runs_domain.events import Usage
from runs_domain.model_port import ModelEnd, TextDelta, ToolInput, ToolInputDelta, ToolInputStart
from tests.models.requests import events_of, model_request, text_of
from tests.support.driving import TestClock
from workers.adapters.model_scripted import ScriptedModel, words
from workers.adapters.playbook import parse_playbook

ONE = Usage(input_tokens=1, output_tokens=1)


def echo(text: str, **changes: Any) -> Any:
    return model_request(text, model="scripted/echo", **changes)


def playbook(*calls: Any, **changes: Any) -> Any:
    return model_request(json.dumps({"calls": calls}), model="scripted/playbook", **changes)


async def test_echo_says_the_last_user_text_back_a_word_a_delta() -> None:
    events = await events_of(ScriptedModel(TestClock()), echo("Say  hello\nthere "))

    assert events == [
        TextDelta(text="Say"),
        TextDelta(text="  hello"),
        TextDelta(text="\nthere"),
        TextDelta(text=" "),
        ModelEnd(finish_reason="stop", usage=ONE, cost="0"),
    ]


async def test_echo_without_a_user_text_stops_empty() -> None:
    request = echo("", messages=({"id": "a", "role": "assistant", "parts": []},))

    events = await events_of(ScriptedModel(TestClock()), request)

    assert events == [ModelEnd(finish_reason="stop", usage=ONE, cost="0")]


async def test_the_last_user_text_is_found_before_the_runs_own_message() -> None:
    messages = (
        {"id": "1", "role": "user", "parts": [{"type": "text", "text": "old"}]},
        {"id": "2", "role": "user", "parts": [{"type": "text", "text": "new"}]},
        {"id": "3", "role": "assistant", "parts": [{"type": "text", "text": "own"}]},
    )

    events = await events_of(ScriptedModel(TestClock()), echo("", messages=messages))

    assert text_of(events) == "new"


@given(st.text())
def test_the_deltas_join_to_exactly_the_text(text: str) -> None:
    pieces = words(text)

    assert "".join(pieces) == text
    assert all(len(piece.split()) <= 1 for piece in pieces)
    assert "" not in pieces


async def test_a_call_plays_its_text_then_its_tools_and_ends_with_tool_calls() -> None:
    request = playbook(
        {
            "text": "let me look",
            "tools": [{"name": "bash", "input": {"command": "ls"}}, {"name": "glob"}],
            "usage": {"inputTokens": 20, "outputTokens": 3},
        }
    )

    assert await events_of(ScriptedModel(TestClock()), request) == [
        TextDelta(text="let"),
        TextDelta(text=" me"),
        TextDelta(text=" look"),
        ToolInputStart(index=0, name="bash"),
        ToolInputDelta(index=0, text='{"command":"ls"}'),
        ToolInput(index=0, input={"command": "ls"}),
        ToolInputStart(index=1, name="glob"),
        ToolInputDelta(index=1, text="{}"),
        ToolInput(index=1, input={}),
        ModelEnd(
            finish_reason="tool-calls", usage=Usage(input_tokens=20, output_tokens=3), cost="0"
        ),
    ]


@pytest.mark.parametrize(("step", "said"), [(0, "one"), (1, "two"), (2, ""), (99, "")])
async def test_the_nth_finished_step_plays_call_n_and_past_the_list_is_an_empty_stop(
    step: int, said: str
) -> None:
    request = playbook({"text": "one"}, {"text": "two"}, step=step)

    events = await events_of(ScriptedModel(TestClock()), request)

    assert text_of(events) == said
    assert events[-1] == ModelEnd(finish_reason="stop", usage=ONE, cost="0")


async def test_the_pause_lies_between_deltas_and_is_the_clocks() -> None:
    clock = TestClock()

    await events_of(ScriptedModel(clock), playbook({"text": "a b c", "delta_ms": 250}))

    assert clock.slept_seconds == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("word", "kind"),
    [("overloaded", ModelOverloaded), ("timeout", ModelTimeout), ("rejected", ModelRejected)],
)
async def test_an_error_comes_before_any_event_in_the_first_tries_of_each_attempt(
    word: str, kind: type[ModelError]
) -> None:
    model = ScriptedModel(TestClock())
    call = {"text": "at last", "error": word, "times": 2}

    for tries in (0, 1):
        with pytest.raises(kind):
            await anext(model.stream(playbook(call, attempt_tries=tries)))

    assert text_of(await events_of(model, playbook(call, attempt_tries=2))) == "at last"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Say hello", "JSON"),
        ("", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "top level"),
        ("{}", "top level"),
        ('{"calls": [], "secret-key": 1}', "top level"),
        ('{"calls": {}}', "calls"),
        ('{"calls": [{}, {"text": 5}]}', r"calls\[1\].text"),
        ('{"calls": [{"error": "secret-word"}]}', r"calls\[0\].error"),
        ('{"calls": [{"delta_ms": -1}]}', r"calls\[0\].delta_ms"),
        ('{"calls": [{"delta_ms": 60001}]}', r"calls\[0\].delta_ms"),
        ('{"calls": [{"times": true}]}', r"calls\[0\].times"),
        ('{"calls": [{"tools": [{"name": ""}]}]}', r"calls\[0\].tools\[0\].name"),
        ('{"calls": [{"tools": [{"name": "bash", "input": "ls"}]}]}', r"tools\[0\].input"),
        ('{"calls": [{"usage": {"inputTokens": "1"}}]}', r"calls\[0\].usage.inputTokens"),
    ],
)
async def test_a_bad_playbook_is_rejected_naming_the_first_bad_place_and_nothing_of_it(
    text: str, place: str
) -> None:
    with pytest.raises(ModelRejected, match=place) as raised:
        await events_of(ScriptedModel(TestClock()), model_request(text, model="scripted/playbook"))

    assert "secret" not in str(raised.value)


@given(st.text())
def test_any_text_is_a_playbook_or_rejected(text: str) -> None:
    try:
        parse_playbook(text)
    except ModelRejected:
        pass
    else:
        assert "calls" in text


async def test_u0000_in_a_playbook_becomes_u_fffd_in_what_it_says_and_calls() -> None:
    call = {"text": "a\0b", "tools": [{"name": "bash", "input": {"k\0": ["\0"]}}]}

    events = await events_of(ScriptedModel(TestClock()), playbook(call))

    assert events[0] == TextDelta(text="a\ufffdb")
    assert events[-2] == ToolInput(index=0, input={"k\ufffd": ["\ufffd"]})
