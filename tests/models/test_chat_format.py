"""UIMessages as chat messages, and chat chunks as model events."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runs_domain.clean import clean_json
from runs_domain.errors import ModelOverloaded, ModelRejected
from runs_domain.events import Json, Usage
from runs_domain.model_port import (
    ModelEnd,
    ModelEvent,
    TextDelta,
    ToolInput,
    ToolInputDelta,
    ToolInputStart,
)
from tests.support.model_server import call, chunk, finish, text, usage
from workers.adapters.chat_answer import ANSWER_CHARS_MAX, CALLS_MAX, ChatAnswer
from workers.adapters.chat_messages import chat_messages

START = {"type": "step-start"}


def said(value: str) -> Json:
    return {"type": "text", "text": value}


def message(role: str, *parts: Json) -> Json:
    return {"id": "m1", "role": role, "parts": list(parts)}


def done(call_id: str, output: Any, **more: Any) -> Json:
    part = {"type": "tool-bash", "toolCallId": call_id, "state": "output-available"}
    return {**part, "input": {"command": call_id}, "output": output, **more}


def played(*chunks: Json) -> list[ModelEvent]:
    answer = ChatAnswer()
    events = [event for one in chunks for event in answer.add(one)]
    return [*events, *answer.finish()]


def end_of(*chunks: Json) -> ModelEnd:
    end = played(*chunks)[-1]
    assert isinstance(end, ModelEnd)
    return end


# ------------------------------------------------------------------------------ messages


def test_each_step_is_an_assistant_message_and_its_results() -> None:
    own = message(
        "assistant",
        START,
        said("let me "),
        said("look"),
        done("a", "file"),
        {**done("b", {"n": 1}), "type": "dynamic-tool", "toolName": "other"},
        START,
        {"type": "reasoning", "text": "hm"},
        {
            "type": "tool-read",
            "toolCallId": "c",
            "state": "output-error",
            "input": None,
            "errorText": "no",
        },
        START,
        said("done"),
    )

    assert chat_messages("", [own]) == [
        {
            "role": "assistant",
            "content": "let me look",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "bash", "arguments": '{"command":"a"}'},
                },
                {
                    "id": "b",
                    "type": "function",
                    "function": {"name": "other", "arguments": '{"command":"b"}'},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "file"},
        {"role": "tool", "tool_call_id": "b", "content": '{"n":1}'},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "read", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "no"},
        {"role": "assistant", "content": "done"},
    ]


def test_a_users_text_images_and_files_become_content() -> None:
    image = {"type": "file", "mediaType": "image/png", "url": "https://example.com/a.png"}
    paper = {
        "type": "file",
        "mediaType": "application/pdf",
        "url": "data:application/pdf;base64,AA",
        "filename": "a.pdf",
    }

    [system, rules, plain, mixed] = chat_messages(
        "Be brief",
        [
            message("system", said("Rule")),
            message("user", said("hi"), {"type": "data-x", "data": 1}),
            message("user", said("look"), image, paper),
            message("user", {"type": "data-x", "data": 1}),
        ],
    )

    assert system == {"role": "system", "content": "Be brief"}
    assert rules == {"role": "system", "content": "Rule"}
    assert plain == {"role": "user", "content": "hi"}
    assert mixed["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        },
    ]


def test_a_call_without_a_result_is_an_error_here() -> None:
    open_call = {**done("a", 1), "state": "input-available"}

    with pytest.raises(ModelRejected):
        chat_messages("", [message("assistant", open_call)])


# ------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content-filter"),
        ("something_new", "other"),
        ("tool_calls", "other"),
    ],
)
def test_finish_reasons_without_calls_are_ours(word: str, reason: str) -> None:
    assert end_of(text("a"), finish(word)).finish_reason == reason


@pytest.mark.parametrize("word", ["tool_calls", "function_call", "stop", "something_new"])
def test_an_answer_with_calls_ends_with_tool_calls_whatever_word_the_server_uses(
    word: str,
) -> None:
    end = end_of(call(0, "{}", name="read", id="x"), finish(word))

    assert end.finish_reason == "tool-calls"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (usage(10, 5), Usage(input_tokens=10, output_tokens=5)),
        (
            usage(10, 5, prompt_tokens_details={"cached_tokens": 4, "cache_write_tokens": 1}),
            Usage(input_tokens=5, cached_input_tokens=4, cache_write_tokens=1, output_tokens=5),
        ),
        (
            usage(10, 5, total_tokens=15, completion_tokens_details={"reasoning_tokens": 2}),
            Usage(input_tokens=10, output_tokens=3, reasoning_tokens=2),
        ),
        (
            usage(10, 5, total_tokens=17, completion_tokens_details={"reasoning_tokens": 2}),
            Usage(input_tokens=10, output_tokens=5, reasoning_tokens=2),
        ),
        (
            usage(10, 5, prompt_tokens_details=None, completion_tokens_details={}),
            Usage(input_tokens=10, output_tokens=5),
        ),
    ],
    ids=["plain", "cached", "reasoning inside", "reasoning apart", "no details"],
)
def test_I_51_token_classes_are_disjoint_however_the_server_counts(
    counts: Json, expected: Usage
) -> None:
    assert end_of(text("a"), finish("stop"), counts).usage == expected


@given(
    cached=st.integers(0, 50),
    written=st.integers(0, 50),
    fresh=st.integers(0, 50),
    reasoning=st.integers(0, 50),
    said_tokens=st.integers(0, 50),
)
def test_I_51_no_token_is_counted_twice_or_lost(
    cached: int, written: int, fresh: int, reasoning: int, said_tokens: int
) -> None:
    prompt, completion = cached + written + fresh, reasoning + said_tokens
    counts = usage(
        prompt,
        completion,
        total_tokens=prompt + completion,
        prompt_tokens_details={"cached_tokens": cached, "cache_write_tokens": written},
        completion_tokens_details={"reasoning_tokens": reasoning},
    )

    used = end_of(text("a"), finish("stop"), counts).usage

    assert used == Usage(
        input_tokens=fresh,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=said_tokens,
        reasoning_tokens=reasoning,
    )


@pytest.mark.parametrize(
    ("cost", "told"),
    [
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (0, "0"),
        ("0.00042", "0.00042"),
        (None, None),
        ("free", None),
        (-1, None),
        ("NaN", None),
    ],
)
def test_a_cost_is_a_plain_decimal_or_unknown(cost: Any, told: str | None) -> None:
    told_cost = end_of(text("a"), finish("stop"), usage(1, 1, cost=cost)).cost

    assert told_cost is None if told is None else float(told_cost or "nan") == float(told)
    assert "e" not in (told_cost or "").lower()


def piece(name: str, arguments: str = "{}", **ids: Any) -> Json:
    return {"function": {"name": name, "arguments": arguments}, **ids}


@pytest.mark.parametrize(
    "pieces",
    [
        [piece("a", id="x"), piece("b", id="y")],
        [piece("a", index=0, id="x"), piece("b", index=0, id="y")],
        [piece("a", "", index=0, id="x"), piece("b", index=1, id="y"), piece("a", index=0, id="x")],
        [piece("a", index=4), piece("b", index=7)],
    ],
    ids=["no index", "one index for all", "ids and names repeated", "odd indexes, no ids"],
)
def test_calls_are_told_apart_however_the_server_numbers_them(pieces: list[Json]) -> None:
    chunks = [chunk({"tool_calls": [one]}) for one in pieces]

    events = played(*chunks, finish("tool_calls"))

    starts = [event for event in events if isinstance(event, ToolInputStart)]
    assert starts == [ToolInputStart(index=0, name="a"), ToolInputStart(index=1, name="b")]
    inputs = [event for event in events if isinstance(event, ToolInput)]
    assert [(event.index, event.input) for event in inputs] == [(0, {}), (1, {})]


@example({"__proto__": 0, "a\0": "\0"}, [])
@given(st.dictionaries(st.text(), st.integers() | st.text()), st.lists(st.integers(1, 9)))
def test_a_tool_input_is_what_its_pieces_spell_and_the_deltas_join_to_it(
    value: Json, cuts: list[int]
) -> None:
    whole = json.dumps(value)
    pieces, rest = [], whole
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    first, *others = [*pieces, rest]

    events = played(
        call(0, first, name="read", id="x"), *(call(0, other) for other in others), finish("stop")
    )

    deltas = [event.text for event in events if isinstance(event, ToolInputDelta)]
    assert "".join(deltas) == whole
    [whole_input] = [event for event in events if isinstance(event, ToolInput)]
    assert whole_input.error is None
    assert whole_input.input == clean_json(value)


def test_a_refusal_is_what_the_model_said() -> None:
    assert played(chunk({"refusal": "No."}), finish("stop"))[0] == TextDelta(text="No.")


def test_an_endless_answer_has_a_limit() -> None:
    answer = ChatAnswer()
    half = text("x" * (ANSWER_CHARS_MAX // 2 + 1))
    list(answer.add(half))

    with pytest.raises(ModelRejected):
        list(answer.add(half))


def test_the_calls_of_one_answer_have_a_limit() -> None:
    answer = ChatAnswer()
    for index in range(CALLS_MAX):
        list(answer.add(call(index, "", name="a", id=str(index))))

    with pytest.raises(ModelRejected):
        list(answer.add(call(CALLS_MAX, "", name="a", id="last")))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "tool_calls", "usage", "index"]), inner
        )
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_json_is_a_chunk_or_a_typed_failure(value: Any) -> None:
    try:
        events = list(ChatAnswer().add(value))
    except ModelOverloaded:
        return
    assert isinstance(events, list)
