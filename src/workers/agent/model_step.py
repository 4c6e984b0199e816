"""One model call of a run: stream it, retry what may be retried, append what it became."""

import logging
from collections.abc import Callable
from typing import Final

from runs_domain import commands as c
from runs_domain import frames as wire
from runs_domain.errors import ModelError, ModelRejected, ModelTimeout, RunledgerError
from runs_domain.events import FailureCode
from runs_domain.model_port import Model, ModelEnd, ModelRequest
from runs_domain.plan import Finish, next_step
from runs_domain.ports import Clock
from runs_domain.step import StepRecorder
from workers.faults import log_fault
from workers.held_run import HeldRun
from workers.interrupt import Interrupted, until_interrupted

logger = logging.getLogger(__name__)

MODEL_CALL_SECONDS_MAX: Final = 900.0
"""One model call, whatever its adapter thinks of time."""
MODEL_TRIES_MAX: Final = 5
"""Tries of one model call within one attempt."""
BACKOFF_SECONDS: Final = (0.25, 1.0, 4.0, 10.0)
"""Pause after the first, second … failed try."""
BROKEN_OFF: Final = "Interrupted"
INTERNAL_ERROR: Final = "Internal error"


class ModelStep:
    """One try after the other at the same call. `request` makes the request of try n (from 0)."""

    def __init__(
        self, held: HeldRun, model: Model, clock: Clock, request: Callable[[int], ModelRequest]
    ) -> None:
        self._held = held
        self._model = model
        self._clock = clock
        self._request = request
        self._begin()

    def _begin(self) -> None:
        held = self._held
        self._recorder = StepRecorder(held.run_id, held.cursor, len(held.state.parts))
        self._end: ModelEnd | None = None
        self._sent = 0

    async def perform(self) -> None:
        """Append the finished step, and the run's end with it if nothing else is left to do.

        Raises Interrupted when the run must stop; `keep_partial` then has what was streamed.
        """
        for tried in range(MODEL_TRIES_MAX):
            try:
                end = await self._stream(self._request(tried))
            except ModelRejected as error:
                await self._fail("model_rejected", str(error))
                return
            except ModelError as error:
                if tried + 1 == MODEL_TRIES_MAX:
                    sentence = f"{error} ({MODEL_TRIES_MAX} tries)"
                    await self._fail("model_unavailable", sentence)
                    return
                await self._back_off(tried, error)
            except (RunledgerError, Interrupted):
                raise
            except Exception as error:  # noqa: BLE001 - an adapter's fault ends this run, not the worker
                log_fault(logger, f"run {self._held.run_id}: the model's adapter broke", error)
                await self._fail("internal", INTERNAL_ERROR)
                return
            else:
                await self._finish(end)
                return

    async def _stream(self, request: ModelRequest) -> ModelEnd:
        try:
            return await until_interrupted(
                self._consume(request),
                self._held.interrupt,
                timeout_seconds=MODEL_CALL_SECONDS_MAX,
            )
        except TimeoutError:
            raise ModelTimeout(
                f"The model did not finish within {MODEL_CALL_SECONDS_MAX:.0f} seconds"
            ) from None

    async def _consume(self, request: ModelRequest) -> ModelEnd:
        async for event in self._model.stream(request):
            frames = self._recorder.add(event)
            self._sent += len(frames)
            self._held.writer.push([wire.encode(frame) for frame in frames])
            if isinstance(event, ModelEnd):
                self._end = event
                return event
        raise ModelTimeout("The model's stream broke off")

    async def _finish(self, end: ModelEnd) -> None:
        message = self._recorder.finish(self._held.attempt, end)
        following = next_step(self._held.preview(message))
        ending = (following.command,) if isinstance(following, Finish) else ()
        await self._held.append(message, *ending, sent=self._sent)

    async def _fail(self, code: FailureCode, sentence: str) -> None:
        failure = c.FailRun(attempt=self._held.attempt, code=code, sentence=sentence)
        await self._held.append(*self.partial(BROKEN_OFF), failure, sent=self._sent)

    async def _back_off(self, tried: int, error: ModelError) -> None:
        """Keep what was streamed as an interrupted step, then pause; a cancel ends the pause."""
        logger.warning("run %s: try %d of a model call: %s", self._held.run_id, tried + 1, error)
        partial = self.partial(BROKEN_OFF)
        if partial:
            await self._held.append(*partial, sent=self._sent)
            self._begin()
        await until_interrupted(
            self._clock.sleep(BACKOFF_SECONDS[tried]),
            self._held.interrupt,
            timeout_seconds=MODEL_CALL_SECONDS_MAX,
        )

    def partial(self, error_text: str) -> tuple[c.PersistMessage, ...]:
        """What was streamed, closed; nothing if nothing was."""
        if self._recorder.is_empty:
            return ()
        return (self._recorder.interrupt(self._held.attempt, error_text, self._end),)

    async def end(self, *ending: c.Command, error_text: str = BROKEN_OFF) -> None:
        """Cut short: keep what was streamed so far, and end the run with it if told to."""
        commands = (*self.partial(error_text), *ending)
        if commands:
            await self._held.append(*commands, sent=self._sent)
