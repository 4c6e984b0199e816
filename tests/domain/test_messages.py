"""UIMessages are kept as they came, or refused with the path of the first bad value."""

import math
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs_domain.errors import InvalidMessages
from runs_domain.message_parts import TEXT_CHARS_MAX
from runs_domain.messages import DEPTH_MAX, MESSAGES_MAX, PARTS_MAX, validate_messages

TEXT = {"type": "text", "text": "hi"}
CALL = {"type": "tool-bash", "toolCallId": "c1", "input": {"command": "ls"}}

GOOD_PARTS: list[dict[str, Any]] = [
    TEXT,
    {"type": "text", "text": "", "state": "done", "providerMetadata": {"acme": {"k": 1}}},
    {"type": "reasoning", "text": "hm", "id": "r1", "state": "streaming"},
    {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA", "filename": "a"},
    {"type": "file", "mediaType": "text/plain", "url": "HTTPS://example.com/a"},
    {"type": "source-url", "sourceId": "s1", "url": "https://example.com", "title": "t"},
    {"type": "source-document", "sourceId": "s1", "mediaType": "a/b", "title": "t"},
    {"type": "step-start"},
    {"type": "data-weather", "data": None, "id": "d1"},
    {**CALL, "state": "input-available", "title": "t", "providerExecuted": False},
    {"type": "tool-bash", "toolCallId": "c1", "state": "input-streaming"},
    {"type": "tool-bash", "toolCallId": "c1", "state": "input-streaming", "input": None},
    {**CALL, "state": "approval-requested", "approval": {"id": "a1", "signature": "x"}},
    {**CALL, "state": "approval-responded", "approval": {"id": "a1", "approved": True}},
    {**CALL, "state": "output-available", "output": None, "preliminary": True},
    {**CALL, "input": None, "state": "output-available", "output": ["any", {"thing": 1.5}]},
    {
        **CALL,
        "state": "output-available",
        "output": 1,
        "approval": {"id": "a", "approved": True, "reason": "ok"},
    },
    {"type": "tool-x", "toolCallId": "c1", "state": "output-error", "errorText": "no"},
    {**CALL, "state": "output-error", "errorText": "no", "rawInput": "{", "input": None},
    {**CALL, "state": "output-denied", "approval": {"id": "a1", "approved": False}},
    {**CALL, "type": "dynamic-tool", "toolName": "x", "state": "input-available", "dynamic": False},
    {"type": "text", "text": "hi", "unknown": None, "more": {"kept": [1, True, None]}},
]

BAD_PARTS: list[tuple[Any, str]] = [
    ("text", ""),
    ({}, ".type"),
    ({"type": 5}, ".type"),
    ({"type": "steering-message"}, ".type"),
    ({"type": "custom"}, ".type"),
    ({"type": "tool-"}, ".type"),
    ({"type": "data-", "data": 1}, ".type"),
    ({"type": "text"}, ".text"),
    ({"type": "text", "text": None}, ".text"),
    ({"type": "text", "text": "x" * (TEXT_CHARS_MAX + 1)}, ".text"),
    ({"type": "text", "text": "a", "state": None}, ".state"),
    ({"type": "text", "text": "a", "state": "over"}, ".state"),
    ({"type": "text", "text": "a", "providerMetadata": None}, ".providerMetadata"),
    ({"type": "reasoning", "text": "a", "id": None}, ".id"),
    ({"type": "file", "url": "https://example.com"}, ".mediaType"),
    ({"type": "file", "mediaType": "a/b", "url": "file:///etc/shadow"}, ".url"),
    ({"type": "file", "mediaType": "a/b", "url": None}, ".url"),
    ({"type": "file", "mediaType": "a/b", "url": "data:,", "filename": None}, ".filename"),
    ({"type": "source-url", "url": "https://example.com"}, ".sourceId"),
    ({"type": "source-document", "sourceId": "s", "mediaType": "a/b"}, ".title"),
    ({"type": "data-weather"}, ".data"),
    ({"type": "data-weather", "data": 1, "id": None}, ".id"),
    ({"type": "tool-x", "state": "input-streaming"}, ".toolCallId"),
    ({"type": "tool-x", "toolCallId": "", "state": "input-streaming"}, ".toolCallId"),
    ({"type": "tool-x", "toolCallId": "c"}, ".state"),
    ({**CALL, "state": "done"}, ".state"),
    ({**CALL, "state": ["input-available"]}, ".state"),
    ({"type": "tool-x", "toolCallId": "c", "state": "input-available"}, ".input"),
    ({**CALL, "state": "input-available", "title": None}, ".title"),
    ({**CALL, "state": "input-available", "providerExecuted": None}, ".providerExecuted"),
    ({**CALL, "state": "input-available", "output": 1}, ".output"),
    ({**CALL, "state": "input-available", "errorText": "x"}, ".errorText"),
    ({**CALL, "state": "output-available"}, ".output"),
    ({**CALL, "state": "output-available", "output": 1, "errorText": "x"}, ".errorText"),
    ({**CALL, "state": "output-available", "output": 1, "preliminary": None}, ".preliminary"),
    ({**CALL, "state": "output-error"}, ".errorText"),
    ({**CALL, "state": "output-error", "errorText": None}, ".errorText"),
    ({**CALL, "state": "output-error", "errorText": "x", "output": 1}, ".output"),
    ({**CALL, "state": "approval-requested"}, ".approval"),
    ({**CALL, "state": "approval-requested", "approval": {}}, ".approval.id"),
    ({**CALL, "state": "approval-responded", "approval": {"id": "a"}}, ".approval.approved"),
    (
        {**CALL, "state": "output-denied", "approval": {"id": "a", "approved": True}},
        ".approval.approved",
    ),
    ({**CALL, "type": "dynamic-tool", "state": "input-available"}, ".toolName"),
    ({"type": "text", "text": "a\0b"}, ".text"),
    ({"type": "text", "text": "a", "more": {"deep": ["x", "\ud800"]}}, ".more.deep[1]"),
    ({**CALL, "state": "output-available", "output": {"a": [{"\0": 1}]}}, ".output.a[0]"),
    ({"type": "data-x", "data": math.inf}, ".data"),
]


def message(*parts: Any, **changes: Any) -> dict[str, Any]:
    return {"id": "m1", "role": "user", "parts": list(parts) or [TEXT], **changes}


def refusal(value: object) -> InvalidMessages:
    with pytest.raises(InvalidMessages) as raised:
        validate_messages(value)
    return raised.value


@pytest.mark.parametrize("part", GOOD_PARTS, ids=lambda p: f"{p['type']}-{p.get('state', '')}")
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_good_part_is_kept_as_it_came(part: dict[str, Any], role: str) -> None:
    given_messages = [message(part, role=role, metadata=None, createdAt=None)]
    before = deepcopy(given_messages)

    assert validate_messages(given_messages) == tuple(before)


@pytest.mark.parametrize(("part", "place"), BAD_PARTS)
def test_a_bad_part_is_refused_by_the_path_of_its_first_bad_value(part: Any, place: str) -> None:
    error = refusal([message(), message(TEXT, part)])

    assert str(error).startswith(f"messages[1].parts[1]{place}: ")
    assert len(str(error)) < 600


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (None, "messages"),
        ({}, "messages"),
        ([], "messages"),
        ([message()] * (MESSAGES_MAX + 1), "messages"),
        (["hi"], "messages[0]"),
        ([{"role": "user", "parts": [TEXT]}], "messages[0].id"),
        ([message(id=None)], "messages[0].id"),
        ([message(id="x" * (TEXT_CHARS_MAX + 1))], "messages[0].id"),
        ([message(role="tool")], "messages[0].role"),
        ([message(role=None)], "messages[0].role"),
        ([{"id": "m1", "role": "user"}], "messages[0].parts"),
        ([message(parts=None)], "messages[0].parts"),
        ([message(parts=[])], "messages[0].parts"),
        ([message(parts=[], role="system")], "messages[0].parts"),
        ([message(parts=[TEXT] * (PARTS_MAX + 1))], "messages[0].parts"),
        ([message(id="a\0")], "messages[0].id"),
        ([message(id="")], "messages[0].id"),
        ([message(id=" \t")], "messages[0].id"),
        ([message(), message(id="m2"), message()], "messages[2].id"),
        ([message(), message(role="assistant", parts=[])], "messages[1].id"),
        ([message(metadata={"a": ["\0"]})], "messages[0].metadata.a[0]"),
        ([message(**{"un\0known": 1})], "messages[0]"),
    ],
)
def test_a_bad_message_is_refused_by_the_path_of_its_first_bad_value(
    value: object, place: str
) -> None:
    assert str(refusal(value)).startswith(f"{place}: ")


def test_an_assistant_message_may_be_empty() -> None:
    assert validate_messages([message(role="assistant", parts=[])])


def test_the_path_is_given_in_segments_below_the_callers_own() -> None:
    with pytest.raises(InvalidMessages) as raised:
        validate_messages([message({"type": "nope"})], path=("body", "messages"))

    assert raised.value.path == ("body", "messages", 0, "parts", 0, "type")


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_nesting_has_a_limit_and_too_much_of_it_is_no_crash() -> None:
    assert validate_messages([message(metadata=nested(DEPTH_MAX))])

    assert "nested" in refusal([message(metadata=nested(DEPTH_MAX + 1))]).problem
    assert "nested" in refusal([message({"type": "data-x", "data": nested(50_000)})]).problem


def test_no_refusal_repeats_what_was_sent() -> None:
    for part, _ in BAD_PARTS:
        marked = {**part, "canary": "canary"} if isinstance(part, dict) else "canary"
        assert "canary" not in str(refusal([message(marked)]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
part_like = st.fixed_dictionaries(
    {"type": st.sampled_from([p["type"] for p in GOOD_PARTS]) | json_values},
    optional=dict.fromkeys(("text", "state", "toolCallId", "input", "output", "data"), json_values),
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.text() | json_values, "parts": st.lists(part_like | json_values)},
            optional={"role": st.sampled_from(["user", "assistant"]) | json_values},
        )
        | json_values
    )
    | json_values
)
def test_any_json_is_kept_whole_or_refused_with_a_path_below_messages(value: Any) -> None:
    before = repr(value)
    path: tuple[str | int, ...] = ("messages",)
    try:
        assert list(validate_messages(value)) == value
    except InvalidMessages as error:
        path = error.path
    assert path[0] == "messages"
    assert repr(value) == before


@given(st.sampled_from(GOOD_PARTS), st.data())
def test_null_is_refused_for_every_key_that_a_rule_names(
    part: dict[str, Any], data: st.DataObject
) -> None:
    free = {"input", "output", "data", "unknown", "more"}
    key = data.draw(st.sampled_from(sorted(part.keys() - free)))

    error = refusal([message({**part, key: None})])

    assert error.path == ("messages", 0, "parts", 0, key)
