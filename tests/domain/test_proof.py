"""The proof of a stream accepts all that `decide` can make, and what it accepts `decide` allows."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import runs_domain.proof
from runs_domain import events as e
from runs_domain.audit import Rows, StreamAudit
from runs_domain.audit_rules import stream_rules
from runs_domain.ids import Attempt, Position, RunId
from runs_domain.proof import StreamProof, hash_of, strict_json
from runs_domain.proof_rules import ClearRules
from runs_domain.proof_shapes import ENVELOPE, SHAPES, WITH_CONTENT, fits
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.history_check import quick_json
from runs_domain.upcast import RULES
from tests.support.builders import ACCOUNT, CHAT, KEY, RUN, SESSION
from tests.support.corpus import FOLDER
from tests.support.told import (
    Told,
    first_fault,
    made_up,
    made_up_and_erased,
    recorded_of,
    refusals,
    stored,
)

HISTORY = sorted(FOLDER.glob("*.json"))
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


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_history_that_the_rules_allow_is_accepted(data: st.DataObject) -> None:
    told = made_up(data)
    if told:
        assert refusals(told) == []
        assert first_fault(stored(told)) is None
        assert first_fault(stored(told), decode=quick_json) is None


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_history_whose_account_was_erased_under_way_is_accepted(data: st.DataObject) -> None:
    told, before = made_up_and_erased(data)
    if told and before:
        assert first_fault(stored(told, erased_after=before)) is None


@pytest.mark.parametrize("file", HISTORY, ids=lambda file: file.stem)
def test_invariant_10_every_stored_stream_is_proved_however_it_is_decoded(file: Path) -> None:
    """But for those whose end charges, as no command does, what nothing had cost."""
    for decode in (strict_json, quick_json):
        fault = first_fault(rows_of(file), decode=decode)
        kind = None if fault is None else fault.kind
        assert kind == ("totals" if file.stem.endswith("_and_charged") else None)


def rows_of(file: Path) -> list[StoredRow]:
    states = [bytes(raw) for raw in msgspec.json.decode(file.read_bytes(), type=list[msgspec.Raw])]
    opened = [strict_json(state) for state in states]
    return [
        StoredRow(RunId(UUID(one["runId"])), one["version"], one["type"], state, Position(place))
        for place, (one, state) in enumerate(zip(opened, states, strict=True), start=1)
    ]


@pytest.mark.parametrize("file", HISTORY, ids=lambda file: file.stem)
def test_a_stream_that_begins_in_the_middle_is_proved_from_the_hash_before_it(file: Path) -> None:
    rows = rows_of(file)
    first, rest = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    for prev in (hash_of(first[-1].state), None):
        proof = StreamProof(str(rows[0].run_id), first_version=rest[0].version, prev=prev)
        assert [proof.take(row.version, row.tag, row.state) for row in rest] == [None] * len(rest)
        assert proof.end(rows[-1].version, hash_of(rows[-1].state)) is None
    proof = StreamProof(str(rows[0].run_id), first_version=rest[0].version, prev="0" * 64)
    found = [proof.take(row.version, row.tag, row.state) for row in rest]
    assert [one.kind for one in found if one is not None] == ["chain"]
    assert found[0] is not None


# ------------------------------------------------------------------------------ shapes


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


# ------------------------------------------------------------------------------ bytes


@pytest.mark.parametrize(
    "stored_bytes",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{} {}",
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":[{"b":1,"b":2}]}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\uDFFF"}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        "{}".encode("utf-16"),
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(17),
)
@pytest.mark.parametrize("decode", [strict_json, quick_json])
def test_bytes_that_are_not_one_clean_object_are_refused(
    stored_bytes: bytes, decode: Callable[[bytes], object]
) -> None:
    fault = StreamProof(str(RUN), decode=decode).take(1, "run.requested.v1", stored_bytes)
    assert fault is not None
    assert fault.kind == "bytes"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(value=JSON, ascii_only=st.booleans(), tight=st.booleans(), cut=st.integers(0, 3))
def test_the_quick_decoder_says_what_the_strict_one_says(
    value: object, *, ascii_only: bool, tight: bool, cut: int
) -> None:
    separators = (",", ":") if tight else (", ", ": ")
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
    raw = text.encode("utf-8", "surrogatepass")[cut:]
    try:
        expected = strict_json(raw)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - which one is nobody's concern
            quick_json(raw)
    else:
        assert quick_json(raw) == expected


def test_the_proof_needs_nothing_but_the_standard_library() -> None:
    source = Path(runs_domain.proof.__file__).parents[1]
    code = (
        f"import sys; sys.path.append({str(source)!r}); import runs_domain.proof;"
        " assert not {'msgspec', 'psycopg', 'typing_extensions'} & set(sys.modules)"
    )
    python = str(Path(sys.executable).resolve())
    subprocess.run([python, "-S", "-c", code], check=True, timeout=30)  # noqa: S603 - our own argv


# ------------------------------------------------------------------------------ tampering


NEEDS_CONTENT = (
    "already have their results",
    "stands twice",
    "while calls are open",
    "calls without a result",
    "a result for a call that is not open",
    "a result for a call that was never started",
    "not an open call",
    "parts of another message",
    "a call is left open",
    "a run needs at least one message",
)
"""Of `decide`'s reasons: those that only the sealed parts tell; `audit_rules` looks for them."""


def tampered(data: st.DataObject, told: list[Told]) -> list[Told]:
    """One event dropped, moved, put in or changed."""
    told = [one._replace(append=10 * one.append) for one in told]
    appends = [one.append for one in told]
    place = data.draw(st.integers(0, len(told) - 1))
    one = told[place]
    match data.draw(st.sampled_from(["drop", "move", "put in", "change"])):
        case "drop":
            return told[:place] + told[place + 1 :]
        case "move":
            to = data.draw(st.integers(0, len(told) - 1))
            moved = told[:place] + told[place + 1 :]
            moved.insert(to, one)
            # Times and attempts as if it had always been so.
            return [each._replace(append=at) for each, at in zip(moved, appends, strict=True)]
        case "put in":
            stranger = data.draw(st.sampled_from([*told, *made_up(data, 6)]))
            at = one.append + data.draw(st.sampled_from([0, 5]))
            attempt = data.draw(st.sampled_from([stranger.attempt, one.attempt]))
            put = stranger._replace(append=at, attempt=attempt, actor=f"worker:{attempt}")
            return [*told[: place + 1], put, *told[place + 1 :]]
        case _:
            return [*told[:place], changed(data, one), *told[place + 1 :]]


def changed(data: st.DataObject, one: Told) -> Told:
    names = [*one.event.__struct_fields__, "attempt of the envelope"]
    name = data.draw(st.sampled_from(names))
    if name == "attempt of the envelope":
        return one._replace(attempt=one.attempt + data.draw(st.sampled_from([-1, 1])) or 9)
    value = getattr(one.event, name)
    event = msgspec.structs.replace(one.event, **{name: another(data, name, value)})
    return one._replace(event=event)


WORDS = {
    "finish_reason": ["stop", "tool-calls", "length"],
    "code": ["internal", "tries_exhausted"],
    "reason": ["lost", "handover"],
    "state": ["named", "open"],
}
ABSENT = {"finish_reason": "stop", "usage": e.Usage(output_tokens=5), "cost": "0.5"}


def another(data: st.DataObject, name: str, value: object) -> object:
    """Another value that the field may have."""
    if name in WORDS and value is not None:
        return data.draw(st.sampled_from(WORDS[name]))
    match value:
        case None:
            return ABSENT.get(name)
        case bool():
            return not value
        case int():
            return max(0, value + data.draw(st.sampled_from([-1, 1, 100])))
        case e.Usage():
            return value + e.Usage(input_tokens=1)
        case tuple():
            return value[1:] if value else value
        case str():
            return value + ("1" if name == "cost" else "x")
        case _:
            return value


def deep_faults(told: list[Told]) -> list[str]:
    """What `check_invariants` says, which opens what is sealed."""
    audit = StreamAudit(RUN, stream_rules(RUN))
    found = [one for each in recorded_of(stored(told)) for one in audit.take(each)]
    return [one.sentence for one in (*found, *audit.end(Rows()))]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_what_is_accepted_though_it_was_tampered_with_the_rules_allow_too(
    data: st.DataObject,
) -> None:
    accepted_is_allowed(data)


@pytest.mark.long
@pytest.mark.timeout(600)
@settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_accepted_of_very_many_the_rules_allow_too(data: st.DataObject) -> None:
    accepted_is_allowed(data)


def accepted_is_allowed(data: st.DataObject) -> None:
    """Whoever tampers knows the chain and makes it anew. What the rules would not have allowed is
    refused, or needs a look into the content, and then the audit refuses it.
    """
    told = made_up(data)
    told = tampered(data, told) if told else []
    if not told:
        return
    reasons = refusals(told)
    if not reasons or first_fault(stored(told)) is not None:
        return
    assert any(sign in reason for reason in reasons for sign in NEEDS_CONTENT), (reasons, told)
    assert deep_faults(told) != [], (reasons, told)
