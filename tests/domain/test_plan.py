"""What a run needs next."""

from runs_domain import commands as c
from runs_domain.ids import Attempt
from runs_domain.plan import (
    MODEL_STEPS_MAX,
    TRIES_MAX,
    CallModel,
    Done,
    Finish,
    MintKey,
    Provision,
    ReleaseSandbox,
    RunTools,
    Start,
    next_step,
)
from runs_domain.run import INITIAL
from tests.support.builders import (
    FIRST,
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


def test_the_life_of_a_run_in_order() -> None:
    state = INITIAL
    assert next_step(state) == Done()
    state = after(request_run())
    assert next_step(state) == Provision()
    state = after(provisioned(), state=state)
    assert next_step(state) == MintKey()
    state = after(mint_key(), state=state)
    assert next_step(state) == Start()
    state = after(start(), state=state)
    assert next_step(state) == CallModel(step=0)
    state = after(tool_step(state), state=state)
    call = state.open_calls[0]
    assert next_step(state) == RunTools(fresh=(call,), unknown=())
    state = after(c.StartTools(attempt=FIRST, call_ids=(call,)), state=state)
    assert next_step(state) == RunTools(fresh=(), unknown=(call,))
    state = after(tool_result(state, call), state=state)
    assert next_step(state) == CallModel(step=1)
    state = after(text_step(state), state=state)
    assert next_step(state) == Finish(command=c.CompleteRun(attempt=FIRST))
    state = after(c.CompleteRun(attempt=FIRST), state=state)
    assert next_step(state) == ReleaseSandbox()
    state = after(c.RecordSandboxReleased(found=False), state=state)
    assert next_step(state) == Done()


def test_a_pending_cancel_comes_before_everything_else() -> None:
    state = started()
    state = after(tool_step(state), c.RequestCancel(by="x", why="y"), state=state)
    assert next_step(state) == Finish(command=c.CancelRun(attempt=FIRST))


def test_too_many_lost_workers_fail_the_run_by_the_log_and_not_by_a_count_in_redis() -> None:
    state = started()
    for n in range(TRIES_MAX):
        assert next_step(state) == CallModel(step=0)
        state = after(c.ResumeRun(attempt=Attempt(n + 2), reason="lost"), state=state)
    step = next_step(state)
    assert isinstance(step, Finish)
    assert isinstance(step.command, c.FailRun)
    assert step.command.code == "tries_exhausted"


def test_a_model_that_never_stops_runs_into_its_budget() -> None:
    state = started()
    for n in range(MODEL_STEPS_MAX):
        assert next_step(state) == CallModel(step=n)
        state = after(tool_step(state), state=state)
        call = state.open_calls[0]
        state = after(c.StartTools(attempt=FIRST, call_ids=(call,)), state=state)
        state = after(tool_result(state, call), state=state)
    step = next_step(state)
    assert isinstance(step, Finish)
    assert isinstance(step.command, c.FailRun)
    assert step.command.code == "budget_exhausted"


def test_an_interrupted_step_is_called_again_under_the_same_number() -> None:
    state = started()
    partial = c.PersistMessage(
        attempt=FIRST,
        message_id="m",
        parts=({"type": "step-start"}, {"type": "text", "text": "hal", "state": "done"}),
        layout=(),
        interrupted=True,
    )
    state = after(partial, state=state)

    assert next_step(state) == CallModel(step=0)
    assert state.hidden_parts == {0, 1}
