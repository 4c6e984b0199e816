"""The proof of a stream accepts all that `decide` can make, and what it accepts `decide` allows."""

from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs_domain import events as e
from runs_domain.audit import Rows, StreamAudit
from runs_domain.audit_rules import stream_rules
from runs_domain.ids import Position, RunId
from runs_domain.proof import StreamProof, hash_of, strict_json
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.history_check import quick_json
from tests.support.builders import RUN
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
