"""What a stored event may look like for the proof is what the events say."""

from typing import get_args

import msgspec
import pytest

from runs_domain import events as e
from runs_domain.ids import Attempt
from runs_domain.proof_rules import ClearRules
from runs_domain.proof_shapes import ENVELOPE, SHAPES, WITH_CONTENT, fits
from runs_domain.storage import codec
from runs_domain.upcast import RULES
from tests.support.builders import ACCOUNT, CHAT, KEY, SESSION

EXAMPLES: dict[type[e.Event], e.Event] = {
    e.Requested: e.Requested(
        account_id=ACCOUNT,
        actor="a",
        chat_id=CHAT,
        session_id=SESSION,
        model="m",
        request_digest="d",
        artist_id="a",
        organization_id=ACCOUNT,
        credits_reserved=1,
        retry_of="r",
    ),
    e.Provisioned: e.Provisioned(
        sandbox="s",
        provider="p",
        state="named",
        working_directory="/",
        skills=("s",),
        repository="r",
        items=(e.ItemResult(name="n", ok=True, detail="d"),),
    ),
    e.KeyMinted: e.KeyMinted(key_id=KEY, secret_version=1, ttl_seconds=60, scopes=("s",)),
    e.Started: e.Started(),
    e.Resumed: e.Resumed(attempt=Attempt(2), reason="lost", frames_lost=1),
    e.MessagePersisted: e.MessagePersisted(
        message_id="m",
        first_part=1,
        usage=e.Usage(input_tokens=1),
        cost="0.1",
        finish_reason="stop",
        interrupted=True,
    ),
    e.ToolStarted: e.ToolStarted(call_ids=("c",)),
    e.CancelRequested: e.CancelRequested(by="b", why="w"),
    e.Completed: e.Completed(finish_reason="stop", usage=e.Usage(), cost="1", credits_charged=1),
    e.Failed: e.Failed(code="internal", sentence="s", usage=e.Usage(output_tokens=1)),
    e.Cancelled: e.Cancelled(usage=e.Usage(reasoning_tokens=1)),
    e.SandboxReleased: e.SandboxReleased(found=True, commit="c", pushed=True),
    e.KeyRevoked: e.KeyRevoked(key_id=KEY),
}


def test_shapes_are_those_of_the_events_and_of_no_others() -> None:
    """Also a new tag has its line in `proof_shapes`, and its rule in `proof_rules`."""
    assert set(SHAPES) == set(e.TAGS.values()) | set(RULES) == set(ClearRules._STEPS)
    for kind, tag in e.TAGS.items():
        sealed = e.SEALED.get(kind, ())
        fields = {
            field.encode_name: field
            for field in msgspec.structs.fields(kind)
            if field.name not in sealed
        }
        assert set(SHAPES[tag].checks) == set(fields), tag
        assert SHAPES[tag].required == {name for name in fields if fields[name].required}, tag
        assert (tag in WITH_CONTENT) == bool(sealed)
    envelope = msgspec.structs.fields(codec.Envelope)
    assert set(ENVELOPE.checks) == {field.encode_name for field in envelope}
    assert ENVELOPE.required == {field.encode_name for field in envelope if field.required}


@pytest.mark.parametrize(
    ("tag", "name", "words"),
    [
        (e.TAGS[e.Completed], "finishReason", get_args(e.FinishReason)),
        (e.TAGS[e.MessagePersisted], "finishReason", get_args(e.FinishReason)),
        (e.TAGS[e.Failed], "code", get_args(e.FailureCode)),
        (e.TAGS[e.Resumed], "reason", get_args(e.ResumeReason)),
        (e.TAGS[e.Provisioned], "state", ("named", "open")),
    ],
)
def test_words_are_those_of_the_events(tag: str, name: str, words: tuple[str, ...]) -> None:
    check = SHAPES[tag].checks[name]
    assert all(fits(check, word) for word in words)
    for other in ("", "another", 1, True, [], *(word + "x" for word in words)):
        assert not fits(check, other)


VALUES: dict[str, object] = {"text": "x", "flag": True, "count": 3, "list": ["x"], "object": {}}


@pytest.mark.parametrize("tag", SHAPES)
def test_a_value_of_another_kind_is_refused_wherever_the_events_refuse_it(tag: str) -> None:
    """Of each field, and of no field: an odd one, a missing one, all of them text."""
    kind = next(kind for kind, name in e.TAGS.items() if name == tag)
    good = msgspec.json.decode(msgspec.json.encode(EXAMPLES[kind]))
    for name in e.SEALED.get(kind, ()):
        good.pop(name, None)
    assert SHAPES[tag].misfit(good) is None
    assert SHAPES[tag].misfit(good | {"another": 1}) == "a field that no release writes"
    for name in SHAPES[tag].required:
        assert SHAPES[tag].misfit({one: good[one] for one in good if one != name}) == f"no {name}"
    for name in SHAPES[tag].checks:
        for value in VALUES.values():
            try:
                msgspec.convert(good | {name: value}, kind)
            except msgspec.ValidationError:
                assert SHAPES[tag].misfit(good | {name: value}) == f"no proper {name}"
