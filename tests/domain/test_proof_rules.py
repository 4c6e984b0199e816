"""Each rule of the proof refuses what breaks it, though all hashes are made anew."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.frames import advance, cursor_of
from runs_domain.ids import AccountId, Attempt
from runs_domain.proof import StreamProof
from runs_domain.run import INITIAL, decide, evolve
from tests.support.builders import (
    RUN,
    mint_key,
    provisioned,
    request_run,
    start,
    text_step,
    tool_result,
    tool_step,
)
from tests.support.told import Told, first_fault, stored

SECOND = Attempt(2)
Change = Callable[[list[Told]], list[Told]]


class Life:
    def __init__(self) -> None:
        self.state, self.cursor = INITIAL, cursor_of(RUN)
        self.told: list[Told] = []

    def do(self, *commands: c.Command) -> None:
        for command in commands:
            append = len(self.told) + 1
            for event in decide(self.state, command):
                _, self.cursor = advance(self.cursor, event)
                self.state = evolve(self.state, event)
                attempt = self.state.attempt
                self.told.append(Told(event, append, attempt, f"worker:{attempt}"))


def whole_run() -> list[Told]:
    """Two tool calls, a worker lost between their results, a last word, the end: 13 events."""
    life = Life()
    life.do(request_run(credits_reserved=3), provisioned(), mint_key(), start())
    life.do(tool_step(life.state, 2))
    first, second = life.state.open_calls
    life.do(c.StartTools(attempt=Attempt(1), call_ids=(first, second)))
    life.do(tool_result(life.state, first, output={"ok": True}))
    life.do(c.ResumeRun(attempt=SECOND, reason="lost"))
    life.do(tool_result(life.state, second, attempt=SECOND, output={"ok": True}))
    last = text_step(life.state, attempt=SECOND, cursor=life.cursor)
    life.do(replace(last, cost="0.25"))
    life.do(c.CompleteRun(attempt=SECOND), c.RecordSandboxReleased(found=True))
    return life.told


def cancelled_run() -> list[Told]:
    """Over two open calls, of which one is started: 10 events, 6 the wish, 8 the end."""
    life = Life()
    life.do(request_run(), provisioned(), mint_key(), start())
    life.do(tool_step(life.state, 2))
    life.do(c.RequestCancel(by="client", why="test"), c.CancelRun(attempt=Attempt(1)))
    life.do(c.RecordSandboxReleased(found=True))
    return life.told


def early_run() -> list[Told]:
    """Cancelled before it began: the wish, the end and the key's, 4 to 6, in one append."""
    life = Life()
    life.do(request_run(), provisioned(), mint_key())
    life.do(c.RequestCancel(by="client", why="test"), c.RecordSandboxReleased(found=False))
    return life.told


def drop(*versions: int) -> Change:
    return lambda told: [one for version, one in enumerate(told, 1) if version not in versions]


def cut(after: int) -> Change:
    return lambda told: told[:after]


def put(event: e.Event, *, after: int) -> Change:
    """In the append of the event before it, and by the same worker."""
    return lambda told: [
        *told[:after],
        told[after - 1]._replace(event=event),
        *told[after:],
    ]


def again(version: int, *, after: int) -> Change:
    return lambda told: put(told[version - 1].event, after=after)(told)


def change(version: int, **fields: Any) -> Change:
    """Of an event's data."""

    def changed(told: list[Told]) -> list[Told]:
        event = replace(told[version - 1].event, **fields)
        return [*told[: version - 1], told[version - 1]._replace(event=event), *told[version:]]

    return changed


def envelope(version: int, **fields: Any) -> Change:
    def changed(told: list[Told]) -> list[Told]:
        return [*told[: version - 1], told[version - 1]._replace(**fields), *told[version:]]

    return changed


CALL = f"call_{RUN.hex}_"
STRANGER = AccountId(RUN)
SPENT = e.Usage(output_tokens=2)

WHOLE: dict[str, tuple[Change, int, str, str]] = {  # version, kind and words of the fault
    "no request": (drop(1), 1, "transition", "a stream begins with one request"),
    "two requests": (again(1, after=1), 2, "transition", "a stream begins with one request"),
    "provisioned twice": (again(2, after=2), 3, "transition", "a second run.provisioned.v1"),
    "a key before that": (drop(2), 2, "transition", "before the run was provisioned"),
    "two keys": (again(3, after=3), 4, "transition", "a second run.key_minted.v1"),
    "a key for a day and more": (
        change(3, ttl_seconds=24 * 60 * 60 + 1),
        3,
        "transition",
        "for 86401 seconds",
    ),
    "a key for a moment": (change(3, ttl_seconds=59), 3, "transition", "for 59 seconds"),
    "started without a key": (drop(3), 3, "transition", "without its key"),
    "started twice": (again(4, after=4), 5, "transition", "a second run.started.v1"),
    "a message before the start": (drop(4), 4, "transition", "before the run started"),
    "a message of another run": (
        change(9, message_id="msg_x"),
        9,
        "transition",
        "another message than the run's",
    ),
    "a result before any call": (
        again(7, after=4),
        5,
        "transition",
        "a result, and no call was made",
    ),
    "a step after the last": (again(10, after=10), 11, "transition", "after the last one"),
    "a step that was cut off and finished": (
        change(5, interrupted=True),
        5,
        "transition",
        "is cut off, and finished",
    ),
    "parts left out": (change(10, first_part=4), 10, "transition", "adds part 4 to 3 parts"),
    "parts again": (change(10, first_part=2), 10, "transition", "adds part 2 to 3 parts"),
    "parts before a call that was started": (
        change(7, first_part=2),
        7,
        "transition",
        "adds part 2 after call 2 was started",
    ),
    "calls before any step": (again(6, after=4), 5, "transition", "a call where there is none"),
    "no calls": (change(6, call_ids=()), 6, "transition", "a call where there is none"),
    "a call twice": (again(6, after=6), 7, "transition", "starts a call again"),
    "a call twice at once": (
        change(6, call_ids=(CALL + "1", CALL + "1")),
        6,
        "transition",
        "starts a call again",
    ),
    "a call of another run": (
        change(6, call_ids=("call_x_1",)),
        6,
        "transition",
        "a call of another message",
    ),
    "a call without a number": (
        change(6, call_ids=(CALL + "٣",)),
        6,
        "transition",
        "a call of another message",
    ),
    "a call far away": (
        change(6, call_ids=(CALL + "9" * 5000,)),
        6,
        "transition",
        "a call of another message",
    ),
    "an attempt left out": (
        change(8, attempt=Attempt(3)),
        8,
        "attempt",
        "as attempt 3 after attempt 1",
    ),
    "an attempt again": (change(8, attempt=Attempt(1)), 8, "attempt", "as attempt 1 after"),
    "an attempt that does not hold the run": (
        envelope(9, attempt=Attempt(1)),
        9,
        "attempt",
        "by attempt 1, and 2 held the run",
    ),
    "an attempt of tomorrow": (
        envelope(5, attempt=Attempt(2)),
        5,
        "attempt",
        "by attempt 2, and 1 held the run",
    ),
    "two workers": (envelope(6, actor="worker:x"), 6, "attempt", "a second worker as attempt 1"),
    "another account": (
        envelope(6, subject=STRANGER),
        6,
        "subject",
        "another account than the events before it",
    ),
    "another account's request": (
        change(1, account_id=STRANGER),
        1,
        "subject",
        "than the one whose run it requests",
    ),
    "completed though it had not finished": (
        drop(10),
        10,
        "transition",
        "whose model has not finished",
    ),
    "completed for another reason": (
        change(11, finish_reason="length"),
        11,
        "transition",
        "another reason than its last step's",
    ),
    "completed though it was to be cancelled": (
        put(e.CancelRequested(by="x", why="y"), after=10),
        12,
        "transition",
        "completes a run that was to be cancelled",
    ),
    "cancelled though nobody asked": (
        lambda told: [
            *told[:10],
            told[10]._replace(event=e.Cancelled(usage=SPENT)),
            *told[11:],
        ],
        11,
        "transition",
        "nobody had asked",
    ),
    "other tokens": (change(11, usage=e.Usage(output_tokens=3)), 11, "totals", "other tokens"),
    "tokens of another class": (
        change(11, usage=e.Usage(input_tokens=2)),
        11,
        "totals",
        "other tokens",
    ),
    "a cost that nobody knows": (change(11, cost="0.25"), 11, "totals", "another cost"),
    "a cost without tokens": (change(7, cost="0.25"), 7, "totals", "a cost and no usage"),
    "a cost beyond all numbers": (
        change(5, cost="9E999999999"),
        5,
        "totals",
        "a cost beyond all numbers",
    ),
    "more credits than reserved": (
        change(11, credits_charged=4),
        11,
        "totals",
        "more credits than were reserved",
    ),
    "no revocation": (drop(12), 12, "transition", "where run.key_revoked.v1 comes"),
    "a later revocation": (
        lambda told: [*told[:11], *(one._replace(append=one.append + 1) for one in told[11:])],
        12,
        "transition",
        "comes in the same append",
    ),
    "a revocation of another key": (
        change(12, key_id=RUN),
        12,
        "transition",
        "another key than the run's",
    ),
    "a revocation before the end": (again(12, after=10), 11, "transition", "before the end"),
    "a second revocation": (again(12, after=12), 13, "transition", "out of place after the end"),
    "a release before the end": (again(13, after=4), 5, "transition", "before the end"),
    "a release twice": (again(13, after=13), 14, "transition", "out of place after the end"),
    "a second end": (again(11, after=12), 13, "transition", "out of place after the end"),
    "a takeover after the end": (
        put(e.Resumed(attempt=Attempt(3), reason="lost"), after=13),
        14,
        "transition",
        "out of place after the end",
    ),
    "an end without its revocation at the end": (cut(11), 11, "tail", "run.key_revoked.v1"),
}
CANCELLED: dict[str, tuple[Change, int, str, str]] = {
    "asked twice": (again(6, after=6), 7, "transition", "a second run.cancel_requested.v1"),
    "a step while a cancel was pending": (
        put(e.MessagePersisted(message_id="x", first_part=0, finish_reason="stop"), after=6),
        7,
        "transition",
        "a model step while a cancel was pending",
    ),
    "a call while a cancel was pending": (
        put(e.ToolStarted(call_ids=(CALL + "1",)), after=6),
        7,
        "transition",
        "starts a call while a cancel was pending",
    ),
    "failed though it was to be cancelled": (
        lambda told: [
            *told[:7],
            told[7]._replace(event=e.Failed(code="internal", sentence="x", usage=e.Usage())),
        ],
        8,
        "transition",
        "fails a run that was to be cancelled",
    ),
}
EARLY: dict[str, tuple[Change, int, str, str]] = {
    "a wish alone": (cut(4), 4, "tail", "run.cancelled.v1"),
    "something in between": (
        put(e.Started(), after=4),
        5,
        "transition",
        "where run.cancelled.v1 comes",
    ),
    "an end of another append": (
        lambda told: [*told[:4], *(one._replace(append=one.append + 1) for one in told[4:])],
        5,
        "transition",
        "comes in the same append",
    ),
}
CASES = [
    pytest.param(made, *case, id=f"{made.__name__}: {name}")
    for made, cases in ((whole_run, WHOLE), (cancelled_run, CANCELLED), (early_run, EARLY))
    for name, case in cases.items()
]


@pytest.mark.parametrize("made", [whole_run, cancelled_run, early_run])
def test_the_runs_as_they_were_are_proved(made: Callable[[], list[Told]]) -> None:
    assert first_fault(stored(made())) is None


@pytest.mark.parametrize("ttl_seconds", [60, 24 * 60 * 60])
def test_a_key_may_live_a_minute_and_a_day(ttl_seconds: int) -> None:
    assert first_fault(stored(change(3, ttl_seconds=ttl_seconds)(whole_run()))) is None


@pytest.mark.parametrize(("made", "broken", "version", "kind", "words"), CASES)
def test_a_broken_rule_is_named_at_its_version(
    made: Callable[[], list[Told]], broken: Change, version: int, kind: str, words: str
) -> None:
    fault = first_fault(stored(broken(made())))
    assert fault is not None
    assert (fault.version, fault.position, fault.kind) == (version, version, kind)
    assert words in fault.sentence
    assert fault.sentence.startswith(f"version {version} ")


def test_an_attempt_does_not_go_back_even_where_the_beginning_is_not_known() -> None:
    rows = stored(envelope(10, attempt=Attempt(1))(whole_run()))[8:]
    proof = StreamProof(str(RUN), first_version=9)
    assert proof.take(rows[0].version, rows[0].tag, rows[0].state) is None
    fault = proof.take(rows[1].version, rows[1].tag, rows[1].state)
    assert fault is not None
    assert (fault.version, fault.kind) == (10, "attempt")
    assert fault.sentence == "version 10 is by attempt 1, after attempt 2"
