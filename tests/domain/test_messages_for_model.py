"""What a model is shown of a conversation."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runs_domain.events import Json
from runs_domain.history import called_tool, is_tool_part, messages_for_model
from runs_domain.messages import validate_messages

START = {"type": "step-start"}


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def message(role: str, *parts: Json) -> Json:
    return {"id": "m1", "role": role, "parts": list(parts)}


def call(state: str, **more: Any) -> Json:
    return {"type": "tool-bash", "toolCallId": "c1", "state": state, "input": {"a": 1}, **more}


def test_the_requests_messages_come_first_and_the_runs_own_last() -> None:
    asked = message("user", text("hi"))

    shown = messages_for_model([asked], (START, text("hello")), frozenset())

    assert shown == (asked, {"id": "", "role": "assistant", "parts": [START, text("hello")]})


def test_before_its_first_step_the_run_has_no_message() -> None:
    assert messages_for_model([message("user", text("hi"))], ()) == (message("user", text("hi")),)


def test_parts_for_people_are_dropped_and_what_nothing_is_left_of_too() -> None:
    source = {"type": "source-url", "sourceId": "s", "url": "https://example.com"}
    data = {"type": "data-x", "data": 1}

    shown = messages_for_model(
        [message("user", data, text("hi"), source), message("assistant", START, data)], ()
    )

    assert shown == (message("user", text("hi")),)


def test_what_an_interrupted_step_left_is_hidden() -> None:
    parts = (START, text("kept"), START, text("cut o"), START, text("again"))

    [own] = messages_for_model([], parts, frozenset({2, 3}))

    assert own["parts"] == [START, text("kept"), START, text("again")]


def test_calls_without_a_result_are_closed_as_cancelled_with_their_input() -> None:
    for state in ("input-streaming", "input-available", "approval-requested", "approval-responded"):
        approval = {"approval": {"id": "a", "approved": True}}
        [shown] = messages_for_model([message("assistant", call(state, **approval))], ())

        assert shown["parts"] == [call("output-error", errorText="Cancelled")]


def test_a_call_that_the_user_refused_has_the_reason_as_its_result() -> None:
    denied = call("output-denied", approval={"id": "a", "approved": False, "reason": "too risky"})
    silent = call("output-denied", approval={"id": "a", "approved": False})

    [shown] = messages_for_model([message("assistant", denied, silent)], ())

    assert [part["errorText"] for part in shown["parts"]] == [
        "too risky",
        "The user refused this call",
    ]


def test_a_dynamic_tool_keeps_its_name_when_it_is_closed() -> None:
    open_call = {**call("input-available"), "type": "dynamic-tool", "toolName": "x"}

    [shown] = messages_for_model([message("assistant", open_call)], ())

    assert called_tool(shown["parts"][0]) == "x"
    assert called_tool(call("input-available")) == "bash"


def test_the_given_messages_are_not_changed() -> None:
    asked = message("assistant", call("input-available"), {"type": "data-x", "data": 1})

    messages_for_model([asked], ())

    assert asked == message("assistant", call("input-available"), {"type": "data-x", "data": 1})


parts = st.sampled_from(
    [
        START,
        text("hi"),
        {"type": "data-x", "data": 1},
        {"type": "reasoning", "text": "hm"},
        call("input-available"),
        call("input-streaming"),
        call("output-available", output=None),
        call("output-denied", approval={"id": "a", "approved": False}),
        {**call("output-error", errorText="x"), "type": "dynamic-tool", "toolName": "y"},
    ]
)
messages = st.builds(
    lambda role, kept: message(role, *kept),
    st.sampled_from(["user", "assistant", "system"]),
    st.lists(parts, min_size=1),
)


@given(st.lists(messages), st.lists(parts))
def test_every_call_that_is_shown_has_a_result_and_what_is_shown_is_valid(
    asked: list[Json], own: list[Json]
) -> None:
    shown = messages_for_model(asked, own)

    kept = [part for one in shown for part in one["parts"]]
    assert all(
        part["state"] in {"output-available", "output-error"} for part in kept if is_tool_part(part)
    )
    assert not any(part["type"].startswith(("data-", "source-")) for part in kept)
    if shown:
        numbered = [{**one, "id": f"m{place}"} for place, one in enumerate(shown)]
        assert validate_messages(numbered) == tuple(numbered)
