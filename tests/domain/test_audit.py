"""The audit finds what breaks an invariant, and nothing in a history that keeps them all."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.audit import KeyFacts, Rows, StreamAudit
from runs_domain.audit_rows import row_rules
from runs_domain.audit_rules import stream_rules
from runs_domain.frames import Frame, FrameCursor, advance, cursor_of
from runs_domain.ids import (
    AccountId,
    Attempt,
    KeyId,
    Position,
    Version,
    chain_start,
    tool_call_id,
)
from runs_domain.ledger import entries_after
from runs_domain.ports import Head, Recorded
from runs_domain.read_models import messages_after, summarize
from runs_domain.run import decide
from runs_domain.sandbox_rows import sandbox_after
from runs_domain.state import INITIAL, evolve, fold, is_live, is_open, status_of
from tests.support.builders import (
    ACCOUNT,
    RUN,
    mint_key,
    provisioned,
    request_run,
    start,
    text_step,
    tool_result,
    tool_step,
)
from tests.support.histories import History, legal_command, random_command
from tests.support.recorded import BEGINNING, recorded

END = Position(10**9)
VIEWS = ("runs", "messages", "credits", "sandboxes")
ALL_AT_THE_END = dict.fromkeys(VIEWS, END)
SECOND = Attempt(2)
Stream = list[Recorded]


def chained(events: Sequence[e.Event]) -> Stream:
    """As a log has them: each bound to the one before, an append of two events at one time."""
    stream: Stream = []
    before: e.Event | None = None
    prev = chain_start(RUN)
    for number, one in enumerate(recorded(events), start=1):
        state = fold(list(events[:number]))
        together = isinstance(one.event, e.KeyRevoked) or (
            isinstance(one.event, e.Failed | e.Cancelled)
            and isinstance(before, e.MessagePersisted)
            and before.interrupted
        )
        digest = f"hash {number}"
        stream.append(
            replace(
                one,
                prev=prev,
                hash=digest,
                attempt=state.attempt,
                actor=f"worker:{state.attempt}",
                at=stream[-1].at if together else one.at,
            )
        )
        prev, before = digest, one.event
    return stream


def rows_of(stream: Stream) -> Rows:
    """What the database holds beside it when nothing is wrong."""
    state = fold([one.event for one in stream])
    requested, last = state.requested, stream[-1]
    assert requested is not None
    revoked = [one.at for one in stream if isinstance(one.event, e.KeyRevoked)]
    keys = () if state.key is None else (KeyFacts(state.key.key_id, ACCOUNT, True, None),)
    return Rows(
        head=Head(
            run_id=RUN,
            account_id=requested.account_id,
            chat_id=requested.chat_id,
            session_id=requested.session_id,
            version=last.version,
            status=status_of(state),
            live=is_live(state),
            open=is_open(state),
            head_hash=last.hash,
            requested_position=stream[0].position,
            updated_at=last.at,
        ),
        keys=tuple(replace(key, revoked_at=revoked[0]) if revoked else key for key in keys),
        summary=summarize(stream),
        messages=messages_after(stream),
        entries=entries_after(stream),
        sandbox=sandbox_after(stream),
    )


def found(stream: Stream, rows: Rows | None = None, *, at_rest: bool = True) -> list[str]:
    """The rules that are broken."""
    said = sentences(stream, rows, at_rest=at_rest)
    return sorted({one.partition(" ")[0] for one in said})


def sentences(stream: Stream, rows: Rows | None = None, *, at_rest: bool = True) -> list[str]:
    """`<rule> <sentence>`; nothing of the content is in them."""
    audit = StreamAudit(RUN, (*stream_rules(RUN, at_rest=at_rest), *row_rules(ALL_AT_THE_END)))
    violations = [one for recorded in stream for one in audit.take(recorded)]
    violations += audit.end(rows_of(stream) if rows is None else rows)
    assert all("Say hello" not in one.sentence for one in violations)
    return [f"{one.rule} {one.sentence}" for one in violations]


class Life:
    """A run that keeps the rules, command by command."""

    def __init__(self) -> None:
        self.state, self.cursor = INITIAL, cursor_of(RUN)
        self.events: list[e.Event] = []

    def do(self, *commands: c.Command) -> None:
        for command in commands:
            for event in decide(self.state, command):
                _, self.cursor = advance(self.cursor, event)
                self.state = evolve(self.state, event)
                self.events.append(event)


def whole_run() -> Stream:
    """Two tool calls, a worker lost between their results, a last word, the end."""
    life = Life()
    life.do(request_run(credits_reserved=5), provisioned(), mint_key(), start())
    life.do(tool_step(life.state, 2))
    first, second = life.state.open_calls
    life.do(c.StartTools(attempt=Attempt(1), call_ids=(first, second)))
    life.do(tool_result(life.state, first, output={"ok": True}))
    life.do(c.ResumeRun(attempt=SECOND, reason="lost"))
    life.do(tool_result(life.state, second, attempt=SECOND, output={"ok": True}))
    life.do(text_step(life.state, attempt=SECOND, cursor=life.cursor))
    life.do(c.CompleteRun(attempt=SECOND), c.RecordSandboxReleased(found=True))
    return chained(life.events)


def place_of(stream: Stream, kind: type[e.Event], number: int = 0) -> int:
    return [i for i, one in enumerate(stream) if isinstance(one.event, kind)][number]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_the_rules_allow_the_audit_allows(data: st.DataObject) -> None:
    history = History(data)
    for _ in range(data.draw(st.integers(1, 25))):
        maker = data.draw(st.sampled_from([legal_command, legal_command, random_command]))
        history.attempt(maker(data, history))
    if history.events:
        assert found(chained(history.events), at_rest=False) == []


def test_a_whole_run_is_clean_and_a_prefix_of_it_is_not_at_rest() -> None:
    stream = whole_run()
    assert found(stream) == []
    between = place_of(stream, e.KeyRevoked)  # the end and this are one append
    for length in set(range(1, len(stream))) - {between}:
        assert found(stream[:length], at_rest=False) == []
        assert found(stream[:length]) == ["1"]


def rebuilt(stream: Stream, change: Callable[[list[e.Event]], None]) -> Stream:
    """The stream had it been written with these events: only what they say is wrong."""
    events = [one.event for one in stream]
    change(events)
    return chained(events)


def swap(stream: Stream, place: int, **changes: Any) -> Stream:
    """One envelope or its event changed."""
    return [replace(one, **changes) if i == place else one for i, one in enumerate(stream)]


def again(kind: type[e.Event], *, at: type[e.Event], number: int = 0) -> Callable[[Stream], Stream]:
    """An event of this kind once more, before the first one of kind `at`."""

    def broken(stream: Stream) -> Stream:
        event = stream[place_of(stream, kind, number)].event
        return rebuilt(stream, lambda events: events.insert(place_of(stream, at), event))

    return broken


def without(kind: type[e.Event]) -> Callable[[Stream], Stream]:
    return lambda stream: rebuilt(stream, lambda events: events.pop(place_of(stream, kind)))


def changed(kind: type[e.Event], number: int = 0, **changes: Any) -> Callable[[Stream], Stream]:
    def broken(stream: Stream) -> Stream:
        place = place_of(stream, kind, number)
        event = replace(stream[place].event, **changes)
        return rebuilt(stream, lambda events: events.__setitem__(place, event))

    return broken


def enveloped(kind: type[e.Event], **changes: Any) -> Callable[[Stream], Stream]:
    return lambda stream: swap(stream, place_of(stream, kind), **changes)


def later(stream: Stream) -> Stream:
    place = place_of(stream, e.KeyRevoked)
    return swap(stream, place, at=stream[place].at + timedelta(seconds=1))


def other_layout(stream: Stream) -> Stream:
    """The last step's frames lose their first one."""
    place = place_of(stream, e.MessagePersisted, 3)
    event = stream[place].event
    assert isinstance(event, e.MessagePersisted)
    return changed(e.MessagePersisted, 3, layout=event.layout[1:])(stream)


def lost_delta(stream: Stream) -> Stream:
    """The frames stay legal, and tell less than the message says."""
    place = place_of(stream, e.MessagePersisted, 3)
    event = stream[place].event
    assert isinstance(event, e.MessagePersisted)
    layout = tuple(item for item in event.layout if item.frame != "text-delta")
    return changed(e.MessagePersisted, 3, layout=layout)(stream)


def cut_off() -> Stream:
    """Of two calls one is started; then the run fails, which closes both."""
    life = Life()
    life.do(request_run(), provisioned(), mint_key(), start())
    life.do(tool_step(life.state, 2))
    life.do(c.StartTools(attempt=Attempt(1), call_ids=life.state.open_calls[:1]))
    life.do(c.FailRun(attempt=Attempt(1), code="internal", sentence="It broke."))
    return chained(life.events)


def other_start(stream: Stream) -> Stream:
    """The second call is started too, just before both are closed."""
    place = place_of(stream, e.ToolStarted)
    call = tool_call_id(RUN, 2)
    return rebuilt(stream, lambda events: events.insert(place, e.ToolStarted(call_ids=(call,))))


def test_a_run_that_fails_over_open_calls_is_clean() -> None:
    assert found(cut_off(), at_rest=False) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            without(e.ToolStarted),
            "closes call_01900000000070008000000000000001_1 as if it had been",
        ),
        (other_start, "closes call_01900000000070008000000000000001_2 as if it had not been"),
        (again(e.ToolStarted, at=e.Failed), "and no end is written with it"),
        (lambda stream: stream[: place_of(stream, e.Failed)], "and no end follows"),
        (enveloped(e.Failed, at=BEGINNING + timedelta(days=1)), "and no end is written with it"),
    ],
    ids=["a start left out", "a start put in", "something between", "no end", "a later end"],
)
def test_calls_are_closed_by_what_is_written_with_the_end(
    change: Callable[[Stream], Stream], says: str
) -> None:
    assert any(says in one for one in sentences(change(cut_off()), at_rest=False))


def no_number(stream: Stream) -> Stream:
    place = place_of(stream, e.MessagePersisted)
    event = stream[place].event
    assert isinstance(event, e.MessagePersisted)
    return swap(stream, place, event=replace(event, cost="much"))


TOOLS = e.ToolStarted
STEP = e.MessagePersisted
BREAKS: dict[str, tuple[str, Callable[[Stream], Stream]]] = {  # the sentence it must cause
    "a hole": (
        "chain version 6 follows version 4",
        lambda stream: [one for one in stream if one.version != 5],
    ),
    "a changed event": ("does not hold the hash", enveloped(e.Started, hash="another hash")),
    "another chain's begin": (
        "chain version 1 does not hold",
        enveloped(e.Requested, prev="0" * 64),
    ),
    "an older successor": ("older than its predecessor", enveloped(e.Started, at=BEGINNING)),
    "a place before its predecessor": (
        "before its predecessor in the log",
        enveloped(e.Started, position=Position(1)),
    ),
    "another account": ("another account", enveloped(e.Started, subject=AccountId(RUN))),
    "a request for nothing": (
        "1 version 1 requests a run without a message",
        changed(e.Requested, messages=()),
    ),
    "two requests": ("1 version 4 is run.requested.v1", again(e.Requested, at=e.Started)),
    "no request": ("1 version 1 is run.provisioned.v1", without(e.Requested)),
    "two ends": ("a second end", again(e.Completed, at=e.SandboxReleased)),
    "no end": ("1 it never ended", lambda stream: stream[: place_of(stream, e.Completed)]),
    "no release": ("never released", lambda stream: stream[:-1]),
    "a call started twice": ("_1 again", again(TOOLS, at=e.Resumed)),
    "a call that nobody made": (
        "call_0, which is no open call",
        changed(TOOLS, call_ids=("call_0",)),
    ),
    "a result twice": ("a second result", again(STEP, at=e.Completed, number=1)),
    "words told as a result": (
        "2 version 10 has a part that is no result of an open call",
        changed(STEP, 3, finish_reason=None),
    ),
    "a result without a start": ("which never started", without(TOOLS)),
    "a model step twice": (
        "a model step after the last one",
        again(STEP, at=e.Completed, number=3),
    ),
    "a model step while calls are open": ("while calls were open", again(STEP, at=TOOLS, number=0)),
    "parts that skip one": ("adds part 9", changed(STEP, 3, first_part=9)),
    "charged twice": ("other tokens", changed(e.Completed, usage=e.Usage(output_tokens=4))),
    "another cost": ("another cost", changed(e.Completed, cost="1.0")),
    "two mints": ("a second run.key_minted.v1", again(e.KeyMinted, at=e.Started)),
    "started twice": ("a second run.started.v1", again(e.Started, at=TOOLS)),
    "provisioned twice": ("a second run.provisioned.v1", again(e.Provisioned, at=e.Started)),
    "a lower attempt after resumed": (
        "by attempt 1, and 2 held the run",
        enveloped(e.Completed, attempt=Attempt(1)),
    ),
    "an attempt left out": (
        "resumes as attempt 3 after attempt 1",
        changed(e.Resumed, attempt=Attempt(3)),
    ),
    "resumed twice as the same": (
        "resumes as attempt 2 after attempt 2",
        again(e.Resumed, at=e.Completed),
    ),
    "two workers, one attempt": (
        "two workers append as attempt 1",
        enveloped(e.ToolStarted, actor="worker:rival"),
    ),
    "no revocation": ("4 it ended without revoking its key", without(e.KeyRevoked)),
    "a revocation without a mint": ("run.key_revoked.v1, out of place", without(e.KeyMinted)),
    "a revocation before the end": (
        "run.key_revoked.v1, before the end",
        again(e.KeyRevoked, at=e.Completed),
    ),
    "a revocation in another append": ("another append", later),
    "a revocation of another key": (
        "another key than the run's",
        changed(e.KeyRevoked, key_id=KeyId(RUN)),
    ),
    "a release before the end": (
        "run.sandbox_released.v1, before the end",
        again(e.SandboxReleased, at=e.Completed),
    ),
    "a release twice": (
        "run.sandbox_released.v1, out of place",
        again(e.SandboxReleased, at=e.SandboxReleased),
    ),
    "a step after the end": (
        "run.message_persisted.v1, out of place",
        again(STEP, at=e.SandboxReleased, number=3),
    ),
    "a frame left out": ("7 version 10 breaks the stream", other_layout),
    "a text that was not streamed": ("7 the stream tells another message", lost_delta),
    "a cost that is no number": ("10 version 5: InvalidOperation", no_number),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_stream_is_found(what: str) -> None:
    says, breaking = BREAKS[what]
    said = sentences(breaking(whole_run()), rows_of(whole_run()))
    assert any(says in one for one in said), said


def test_a_stream_that_does_not_finish_with_its_run_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(cursor: FrameCursor, event: e.Event) -> tuple[tuple[Frame, ...], FrameCursor]:
        return ((), cursor) if isinstance(event, e.Completed) else advance(cursor, event)

    monkeypatch.setattr("runs_domain.audit_rules.advance", silent)
    (said,) = sentences(whole_run())
    assert said.startswith("7 the stream finishes, and the run does not")


def head(**changes: Any) -> Callable[[Rows], Rows]:
    return lambda rows: replace(rows, head=replace(_there(rows.head), **changes))


def key(**changes: Any) -> Callable[[Rows], Rows]:
    return lambda rows: replace(rows, keys=(replace(rows.keys[0], **changes),))


def summary(**changes: Any) -> Callable[[Rows], Rows]:
    return lambda rows: replace(rows, summary=replace(_there(rows.summary), **changes))


def message(**changes: Any) -> Callable[[Rows], Rows]:
    def broken(rows: Rows) -> Rows:
        first, *rest = _there(rows.messages)
        return replace(rows, messages=(replace(first, **changes), *rest))

    return broken


T = TypeVar("T")


def _there(value: T | None) -> T:
    assert value is not None
    return value


ROW_BREAKS: dict[str, tuple[str, Callable[[Rows], Rows]]] = {
    "no head": ("8", lambda rows: replace(rows, head=None)),
    "a head's status": ("8", head(status="running")),
    "a head that is live": ("8", head(live=True)),
    "a head that is open": ("8", head(open=True)),
    "a head's version": ("8", head(version=Version(3))),
    "a head's hash": ("8", head(head_hash="another hash")),
    "a head's account": ("8", head(account_id=AccountId(RUN))),
    "a head's time": ("8", head(updated_at=BEGINNING)),
    "no row in runs": ("8", lambda rows: replace(rows, summary=None)),
    "a row's status": ("8", summary(status="failed")),
    "a row's usage": ("8", summary(usage=e.Usage(output_tokens=1))),
    "no rows in messages": ("8", lambda rows: replace(rows, messages=())),
    "a message's text": ("8", message(message={"id": "m1", "role": "user", "parts": []})),
    "a message that cannot be opened": ("8", lambda rows: replace(rows, messages=None)),
    "a message too many": (
        "8",
        lambda rows: replace(
            rows, messages=(*_there(rows.messages), replace(_there(rows.messages)[0], place=9))
        ),
    ),
    "no key": ("5", lambda rows: replace(rows, keys=())),
    "a key that is still good": ("5", key(revoked_at=None)),
    "a key revoked at another time": ("5", key(revoked_at=BEGINNING)),
    "another account's key": ("5", key(account_id=AccountId(RUN))),
    "a key that does not expire": ("5", key(ephemeral=False)),
    "two keys": (
        "5",
        lambda rows: replace(rows, keys=(*rows.keys, replace(rows.keys[0], key_id=KeyId(RUN)))),
    ),
}


@pytest.mark.parametrize("what", ROW_BREAKS)
def test_a_broken_row_is_found(what: str) -> None:
    rule, breaking = ROW_BREAKS[what]
    stream = whole_run()
    assert found(stream, breaking(rows_of(stream))) == [rule]


def test_a_live_runs_revoked_key_is_found() -> None:
    stream = whole_run()[:6]
    rows = key(revoked_at=BEGINNING)(rows_of(stream))
    assert found(stream, rows, at_rest=False) == ["5"]


def test_a_key_that_nobody_minted_is_found() -> None:
    stream = whole_run()[:2]
    assert found(
        stream, replace(rows_of(stream), keys=rows_of(whole_run()).keys), at_rest=False
    ) == ["5"]


def test_an_entry_of_the_ledger_that_no_event_made_is_found() -> None:
    stream = whole_run()
    rows = rows_of(stream)
    assert [entry.reserved for entry in rows.entries] == [5, -5]
    assert found(stream, replace(rows, entries=rows.entries[:1])) == ["8"]
    assert found(stream, replace(rows, entries=(*rows.entries, rows.entries[0]))) == []
    forged = replace(rows.entries[1], charged=7)
    assert found(stream, replace(rows, entries=(rows.entries[0], forged))) == ["8"]


def test_a_sandbox_row_that_is_not_the_fold_is_found() -> None:
    stream = whole_run()
    rows = rows_of(stream)
    assert rows.sandbox is not None
    assert found(stream, replace(rows, sandbox=None)) == ["8"]
    assert found(stream, replace(rows, sandbox=replace(rows.sandbox, state="open"))) == ["8"]


def test_a_view_is_held_against_its_own_checkpoint() -> None:
    stream = whole_run()
    behind = Position(stream[4].position)
    rules = (*stream_rules(RUN), *row_rules(dict.fromkeys(VIEWS, behind)))
    audit = StreamAudit(RUN, rules)
    assert [one for recorded in stream for one in audit.take(recorded)] == []
    early = replace(
        rows_of(stream),
        summary=summarize(stream[:5]),
        messages=messages_after(stream[:5]),
        entries=entries_after(stream[:5]),
        sandbox=sandbox_after(stream[:5]),
    )
    assert list(audit.end(early)) == []
    assert {one.rule for one in audit.end(rows_of(stream))} == {"8"}


def test_what_was_erased_is_not_held_against_what_is_left() -> None:
    gone = [
        replace(one, erased=True, event=replace(one.event, **dict.fromkeys(fields, ())))
        if (fields := [f for f in ("parts", "layout", "messages") if hasattr(one.event, f)])
        else one
        for one in whole_run()
    ]
    rows = replace(rows_of(whole_run()), messages=())
    assert found(gone, rows) == []
