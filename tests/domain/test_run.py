"""What a run may do, case by case."""

import pytest

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.errors import (
    IllegalTransition,
    InvalidCommand,
    Refused,
    RunEnded,
    RunNotFound,
    StaleAttempt,
)
from runs_domain.ids import Attempt
from runs_domain.run import INITIAL, RunState, decide, evolve, is_live, is_open, status_of
from tests.support.builders import (
    FIRST,
    KEY,
    after,
    mint_key,
    provisioned,
    request_run,
    start,
    started,
    text_step,
    tool_result,
    tool_step,
)

COMPLETE = c.CompleteRun(attempt=FIRST)
CANCEL = c.RequestCancel(by="key:1", why="client")
FAIL = c.FailRun(attempt=FIRST, code="model_rejected", sentence="The model refused the request.")
RELEASE = c.RecordSandboxReleased(found=True)


def kinds(state: RunState, command: c.Command) -> list[str]:
    return [type(event).__name__ for event in decide(state, command)]


def completed() -> RunState:
    state = started()
    return after(text_step(state), COMPLETE, state=state)


class TestStatus:
    def test_is_queued_until_started(self) -> None:
        assert status_of(after(request_run())) == "queued"
        assert status_of(after(request_run(), provisioned(), mint_key())) == "queued"

    def test_is_running_after_started(self) -> None:
        assert status_of(started()) == "running"

    def test_follows_the_terminal_event(self) -> None:
        assert status_of(completed()) == "completed"
        assert status_of(after(FAIL, state=started())) == "failed"
        assert status_of(after(CANCEL, state=after(request_run()))) == "cancelled"

    def test_of_an_empty_stream_is_an_error_and_never_a_guess_L_07(self) -> None:
        with pytest.raises(RunNotFound):
            status_of(INITIAL)


class TestEnds:
    def test_the_terminal_event_and_the_revocation_are_one_append_invariant_4(self) -> None:
        state = started()
        state = after(text_step(state), state=state)

        assert kinds(state, COMPLETE) == ["Completed", "KeyRevoked"]
        assert kinds(state, FAIL) == ["Failed", "KeyRevoked"]

    def test_a_run_without_a_key_has_none_to_revoke_invariant_4(self) -> None:
        assert kinds(after(request_run(), provisioned()), FAIL) == ["Failed"]

    def test_only_the_release_follows_the_end_invariant_4(self) -> None:
        state = completed()

        assert kinds(state, RELEASE) == ["SandboxReleased"]
        for command in (provisioned(), mint_key(), start(), COMPLETE, FAIL, text_step(state)):
            with pytest.raises(RunEnded):
                decide(state, command)
        with pytest.raises(RunEnded):
            decide(state, c.ResumeRun(attempt=Attempt(2), reason="lost"))

    def test_a_release_happens_once_and_a_live_run_keeps_its_sandbox(self) -> None:
        assert decide(after(RELEASE, state=completed()), RELEASE) == ()
        with pytest.raises(IllegalTransition):
            decide(started(), RELEASE)

    def test_an_ended_run_is_open_until_released_and_holds_no_chat(self) -> None:
        state = completed()

        assert (is_live(state), is_open(state)) == (False, True)
        assert is_open(after(RELEASE, state=state)) is False

    def test_it_cannot_complete_before_the_model_has_finished(self) -> None:
        state = started()
        with pytest.raises(IllegalTransition):
            decide(state, COMPLETE)
        with pytest.raises(IllegalTransition):
            decide(after(tool_step(state), state=state), COMPLETE)

    def test_open_calls_are_closed_by_whoever_ends_the_run_I_30(self) -> None:
        state = started()
        state = after(tool_step(state, 2), state=state)

        closed, failed, revoked = decide(state, FAIL)

        assert isinstance(closed, e.MessagePersisted)
        assert [part["state"] for part in closed.parts] == ["output-error", "output-error"]
        assert isinstance(failed, e.Failed)
        assert revoked == e.KeyRevoked(key_id=KEY)
        assert after(FAIL, state=state).open_calls == ()

    def test_usage_is_the_sum_of_the_steps_and_an_unknown_cost_stays_unknown(self) -> None:
        state = started()
        state = after(tool_step(state), state=state)
        call = state.open_calls[0]
        state = after(c.StartTools(attempt=FIRST, call_ids=(call,)), state=state)
        state = after(tool_result(state, call), state=state)
        state = after(text_step(state), state=state)

        ending = decide(state, COMPLETE)[0]

        assert isinstance(ending, e.Completed)
        assert ending.usage == e.Usage(output_tokens=2)
        assert ending.cost is None


class TestCancel:
    def test_before_the_start_the_client_ends_the_run_itself(self) -> None:
        assert kinds(after(request_run()), CANCEL) == ["CancelRequested", "Cancelled"]
        assert kinds(after(request_run(), provisioned(), mint_key()), CANCEL) == [
            "CancelRequested",
            "Cancelled",
            "KeyRevoked",
        ]

    def test_of_a_running_run_is_a_request_that_the_worker_answers(self) -> None:
        state = started()
        assert kinds(state, CANCEL) == ["CancelRequested"]

        state = after(CANCEL, state=state)
        assert kinds(state, c.CancelRun(attempt=FIRST)) == ["Cancelled", "KeyRevoked"]

    def test_twice_or_after_the_end_changes_nothing(self) -> None:
        assert decide(after(CANCEL, state=started()), CANCEL) == ()
        assert decide(completed(), CANCEL) == ()

    def test_wins_over_a_completion_that_came_second_I_28(self) -> None:
        state = started()
        state = after(text_step(state), CANCEL, state=state)
        for command in (COMPLETE, FAIL):
            with pytest.raises(IllegalTransition):
                decide(state, command)

    def test_keeps_what_was_streamed_and_nothing_else(self) -> None:
        state = after(CANCEL, state=started())
        partial = c.PersistMessage(
            attempt=FIRST,
            message_id="m",
            parts=({"type": "text", "text": "hel"},),
            layout=(),
            interrupted=True,
        )

        assert kinds(state, partial) == ["MessagePersisted"]
        with pytest.raises(IllegalTransition):
            decide(state, text_step(state))

    def test_nobody_asked_nobody_cancels(self) -> None:
        with pytest.raises(IllegalTransition):
            decide(started(), c.CancelRun(attempt=FIRST))


class TestFence:
    def test_invariant_3_a_lower_attempt_appends_nothing(self) -> None:
        state = started()
        resumed = after(c.ResumeRun(attempt=Attempt(2), reason="lost"), state=state)

        for command in (
            text_step(state),
            COMPLETE,
            FAIL,
            c.StartTools(attempt=FIRST, call_ids=("x",)),
        ):
            with pytest.raises(StaleAttempt):
                decide(resumed, command)

    def test_invariant_3_a_taken_attempt_cannot_be_taken_again(self) -> None:
        resumed = after(c.ResumeRun(attempt=Attempt(2), reason="lost"), state=started())
        with pytest.raises(StaleAttempt):
            decide(resumed, c.ResumeRun(attempt=Attempt(2), reason="lost"))

    def test_an_attempt_that_never_resumed_is_refused(self) -> None:
        with pytest.raises(IllegalTransition):
            decide(started(), c.CompleteRun(attempt=Attempt(2)))
        with pytest.raises(IllegalTransition):
            decide(started(), c.ResumeRun(attempt=Attempt(3), reason="lost"))

    def test_a_hand_over_is_no_try(self) -> None:
        state = after(c.ResumeRun(attempt=Attempt(2), reason="handover"), state=started())
        assert state.tries_lost == 0
        assert after(c.ResumeRun(attempt=Attempt(3), reason="lost"), state=state).tries_lost == 1


class TestTools:
    def test_invariant_2_a_call_is_started_once(self) -> None:
        state = started()
        state = after(tool_step(state), state=state)
        begin = c.StartTools(attempt=FIRST, call_ids=state.open_calls)
        state = after(begin, state=state)
        with pytest.raises(IllegalTransition):
            decide(state, begin)

    def test_invariant_2_a_call_has_one_result(self) -> None:
        state = started()
        state = after(tool_step(state), state=state)
        call = state.open_calls[0]
        state = after(c.StartTools(attempt=FIRST, call_ids=(call,)), state=state)
        result = tool_result(state, call)
        state = after(result, state=state)
        with pytest.raises(IllegalTransition):
            decide(state, result)

    def test_an_output_needs_a_started_call_and_a_closed_error_does_not(self) -> None:
        state = started()
        state = after(tool_step(state), state=state)
        call = state.open_calls[0]
        with pytest.raises(IllegalTransition):
            decide(state, tool_result(state, call))
        error = {
            "type": "tool-bash",
            "toolCallId": call,
            "state": "output-error",
            "errorText": "no",
        }
        closing = c.PersistMessage(attempt=FIRST, message_id="m", parts=(error,), layout=())
        assert after(closing, state=state).open_calls == ()

    def test_the_model_is_not_called_while_calls_are_open(self) -> None:
        state = started()
        state = after(tool_step(state), state=state)
        with pytest.raises(IllegalTransition):
            decide(state, text_step(state))


class TestLimits:
    @pytest.mark.parametrize("ttl_seconds", [0, 59, 86_401])
    def test_a_key_lives_a_minute_to_a_day(self, ttl_seconds: int) -> None:
        with pytest.raises(InvalidCommand, match="60 to 86400"):
            decide(after(request_run(), provisioned()), mint_key(ttl_seconds=ttl_seconds))

    def test_a_run_needs_a_message(self) -> None:
        with pytest.raises(InvalidCommand):
            decide(INITIAL, request_run(messages=()))

    def test_every_refusal_has_a_sentence(self) -> None:
        for state in (INITIAL, after(request_run()), started(), completed()):
            for command in (
                provisioned(),
                mint_key(),
                start(),
                COMPLETE,
                FAIL,
                RELEASE,
                request_run(),
            ):
                try:
                    decide(state, command)
                except (Refused, RunNotFound) as refusal:
                    assert str(refusal)  # noqa: PT017 - most of these pairs are refused, some are not


def test_the_version_counts_the_events() -> None:
    state = started()
    assert state.version == 4
    assert evolve(state, e.Started()).version == 5


WORDED_ALIKE = [
    (c.RequestRun, e.Requested),
    (c.ResumeRun, e.Resumed),
    (c.RecordProvisioned, e.Provisioned),
    (c.MintKey, e.KeyMinted),
    (c.PersistMessage, e.MessagePersisted),
    (c.StartTools, e.ToolStarted),
    (c.RequestCancel, e.CancelRequested),
    (c.FailRun, e.Failed),
    (c.RecordSandboxReleased, e.SandboxReleased),
]


@pytest.mark.parametrize(("command", "event"), WORDED_ALIKE)
def test_nothing_that_a_command_says_is_missing_from_its_event(
    command: type[e.Struct], event: type[e.Struct]
) -> None:
    """`decide` copies by name: a field that one of the two lacked would be lost without a word."""
    assert set(command.__struct_fields__) - {"attempt"} <= set(event.__struct_fields__)
