"""The AI SDK's own clients read whatever streams our events can make, and rebuild the message."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runs_domain import frames as w
from runs_domain.clean import clean_json
from runs_domain.events import Failed
from runs_domain.frames import encode
from runs_domain.ids import assistant_message_id
from tests.support.builders import RUN
from tests.support.histories import History, legal_command, random_command
from tests.support.node_clients import MISSING, VERSIONS, NodeClients, node_clients

pytestmark = [pytest.mark.node, pytest.mark.skipif(bool(MISSING), reason=str(MISSING))]

KEYS = st.sampled_from(["a", "__proto__", "constructor", "prototype", "toString", "\u2028", "\0"])
OUTPUTS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
)


@pytest.fixture(scope="module", params=VERSIONS)
def clients(request: pytest.FixtureRequest) -> Iterator[NodeClients]:
    with node_clients(request.param, "http://localhost/none", "none") as started:
        yield started


def told(frames: list[w.Frame]) -> str:
    chunks = [encode(frame).decode() for frame in frames]
    return "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"])


def comparable(parts: list[Any]) -> list[Any]:
    """Without the ids that new clients give to reasoning alone, and steps that hold nothing yet:
    a client says nothing of a step that begins until something is in it."""
    parts = [
        {key: part[key] for key in part if key != "id" or part["type"] != "reasoning"}
        for part in parts
    ]
    while parts and parts[-1] == {"type": "step-start"}:
        parts.pop()
    return parts


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_invariant_7_clients_rebuild_what_any_history_says(
    clients: NodeClients, data: st.DataObject
) -> None:
    history = History(data)
    for _ in range(data.draw(st.integers(1, 25))):
        maker = data.draw(st.sampled_from([legal_command, legal_command, random_command]))
        history.attempt(maker(data, history))

    seen = clients.rebuild(told(history.frames))

    ending = history.state.ending
    assert seen.error == (ending.sentence if isinstance(ending, Failed) else None)
    if history.frames:
        assert seen.messages is not None
        (message,) = seen.messages
        assert message["id"] == assistant_message_id(RUN)
        assert comparable(message["parts"]) == comparable(list(history.state.parts))


@settings(max_examples=100, deadline=None)
@given(given_input=OUTPUTS, output=OUTPUTS)
def test_clients_read_whatever_a_model_or_a_tool_says(
    clients: NodeClients, given_input: Any, output: Any
) -> None:
    given_input, output = clean_json(given_input), clean_json(output)
    frames: list[w.Frame] = [
        w.Start("msg"),
        w.StartStep(),
        w.ToolInputStart("call", "bash"),
        w.ToolInputAvailable("call", "bash", given_input),
        w.ToolOutputAvailable("call", output),
        w.FinishStep(),
        w.Finish("stop"),
    ]

    seen = clients.rebuild(told(frames))

    assert seen.error is None
    assert seen.messages is not None
    part = seen.messages[0]["parts"][1]
    assert (part["input"], part["output"]) == (given_input, output)
