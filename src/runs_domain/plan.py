"""What a run needs next, from its state alone. The driver asks after every append."""

from typing import Final, TypeAlias

from runs_domain import commands
from runs_domain.events import Failed, FailureCode, Struct
from runs_domain.ids import Attempt
from runs_domain.run import RunState, has_finished

TRIES_MAX = 5
"""Lost workers that one run survives; a hand-over is not a try."""
WORKER_LOST: Final = "worker lost"
"""What ended a try whose worker was not left to tell."""
_ENDED_WITH: Final = "the last one ended with: "
MODEL_STEPS_MAX = 111
"""Model calls of one run."""


class Provision(Struct, frozen=True):
    pass


class MintKey(Struct, frozen=True):
    pass


class Start(Struct, frozen=True):
    pass


class CallModel(Struct, frozen=True):
    step: int
    """Finished model calls before this one: the same number after a crash."""


class RunTools(Struct, frozen=True):
    fresh: tuple[str, ...]
    """Calls that were never started: they run now."""
    unknown: tuple[str, ...]
    """Started, and no result came: run again only if the tool is declared repeatable."""


class Finish(Struct, frozen=True):
    command: commands.CompleteRun | commands.FailRun | commands.CancelRun


class ReleaseSandbox(Struct, frozen=True):
    pass


class Done(Struct, frozen=True):
    pass


Step: TypeAlias = (
    Provision | MintKey | Start | CallModel | RunTools | Finish | ReleaseSandbox | Done
)


def next_step(  # noqa: C901 - the whole life of a run, in order
    state: RunState, *, last_error: str = WORKER_LOST
) -> Step:
    """`last_error` is what ended the try before this one (`faults.brief`): a failure names it."""
    if state.requested is None:
        return Done()
    if state.ending is not None:
        return Done() if state.sandbox_released else ReleaseSandbox()
    if state.cancel_requested:
        return Finish(command=commands.CancelRun(attempt=state.attempt))
    if state.tries_lost >= TRIES_MAX:
        sentence = f"Given up after {state.tries_lost} tries; {_ENDED_WITH}{_class_of(last_error)}"
        return _fail(state.attempt, "tries_exhausted", sentence)
    if state.provisioned is None:
        return Provision()
    if state.key is None:
        return MintKey()
    if not state.started:
        return Start()
    if state.open_calls:
        return RunTools(
            fresh=tuple(call for call in state.open_calls if call not in state.started_calls),
            unknown=tuple(call for call in state.open_calls if call in state.started_calls),
        )
    if has_finished(state):
        return Finish(command=commands.CompleteRun(attempt=state.attempt))
    if state.model_steps >= MODEL_STEPS_MAX:
        return _fail(
            state.attempt, "budget_exhausted", f"no end after {MODEL_STEPS_MAX} model calls"
        )
    return CallModel(step=state.model_steps)


def error_told(failed: Failed) -> str:
    """The class that a `tries_exhausted` names, or that the worker was lost."""
    return failed.sentence.partition(_ENDED_WITH)[2] or WORKER_LOST


def _class_of(error: str) -> str:
    """Clients read it: they are told of no place in the code."""
    return error.partition(" at ")[0]


def _fail(attempt: Attempt, code: FailureCode, sentence: str) -> Finish:
    return Finish(command=commands.FailRun(attempt=attempt, code=code, sentence=sentence))
