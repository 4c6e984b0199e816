"""One model call of a run: stream it, retry what may be retried, append what it became."""

import itertools
import logging
import random
from collections.abc import Callable
from typing import Final

from runs_domain import commands as c
from runs_domain import frames as wire
from runs_domain import model_port as model
from runs_domain.errors import (
    AppendRefused,
    ModelError,
    ModelRejected,
    ModelTimeout,
    RunledgerError,
    VersionConflict,
)
from runs_domain.events import FailureCode
from runs_domain.faults import log_fault
from runs_domain.model_port import Model, ModelEnd, ModelEvent, ModelRequest
from runs_domain.plan import Finish, next_step
from runs_domain.ports import Clock
from runs_domain.step import StepRecorder
from workers.agent.back_off import PAUSE_SECONDS_MAX, pause_seconds
from workers.held_run import HeldRun
from workers.interrupt import Interrupted, until_interrupted

logger = logging.getLogger(__name__)

MODEL_CALL_SECONDS_MAX: Final = 900.0
"""One model call, whatever its adapter thinks of time."""
STEP_BYTES_MAX: Final = 4 * 1024 * 1024
"""What one model call may stream, in UTF-8; far enough below an event's limit to be kept whole."""
BROKEN_OFF: Final = "Interrupted"
INTERNAL_ERROR: Final = "Internal error"


class StepTooLarge(Exception):
    """The model streams more than can be kept."""


class _Try:
    """What one try has streamed. `over`: an adapter that ignores its end is not listened to."""

    def __init__(self, held: HeldRun) -> None:
        self.recorder = StepRecorder(held.run_id, held.cursor, len(held.state.parts))
        self.end: ModelEnd | None = None
        self.sent = 0
        self.bytes = 0
        self.over = False


class ModelStep:
    """One try after the other at the same call. `request` makes the request of try n (from 0)."""

    def __init__(
        self,
        held: HeldRun,
        model: Model,
        clock: Clock,
        request: Callable[[int], ModelRequest],
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance` gives numbers from 0 to 1, to spread the pauses of many runs."""
        self._held = held
        self._model = model
        self._clock = clock
        self._request = request
        self._chance = chance
        self._try = _Try(held)

    async def perform(self) -> None:
        """Append the finished step, and the run's end with it if nothing else is left to do.

        Raises Interrupted when the run must stop; `end` then keeps what was streamed.
        """
        for tried in itertools.count():
            began = self._clock.monotonic_seconds()
            try:
                await self._finish(await self._stream(self._request(tried)))
            except ModelRejected as error:
                await self._fail("model_rejected", str(error))
            except ModelError as error:
                self._held.retries.spend(self._clock.monotonic_seconds() - began)
                if await self._may_try_again(tried + 1, error):
                    continue
            except StepTooLarge:
                sentence = f"The model's answer is larger than {STEP_BYTES_MAX} bytes"
                await self._fail("budget_exhausted", sentence)
            except VersionConflict:
                raise
            except AppendRefused as error:
                log_fault(logger, f"run {self._held.run_id}: a step cannot be stored", error)
                await self._fail("internal", INTERNAL_ERROR)
            except (RunledgerError, Interrupted):
                raise
            except Exception as error:  # noqa: BLE001 - an adapter's fault ends this run alone
                log_fault(logger, f"run {self._held.run_id}: the model's adapter broke", error)
                await self._fail("internal", INTERNAL_ERROR)
            return

    async def _stream(self, request: ModelRequest) -> ModelEnd:
        current = self._try
        try:
            return await until_interrupted(
                self._consume(request, current),
                self._held.interrupt,
                timeout_seconds=MODEL_CALL_SECONDS_MAX,
            )
        except TimeoutError:
            raise ModelTimeout(
                f"The model did not finish within {MODEL_CALL_SECONDS_MAX:.0f} seconds"
            ) from None
        finally:
            current.over = True

    async def _consume(self, request: ModelRequest, current: _Try) -> ModelEnd:
        async for event in self._model.stream(request):
            if current.over:
                raise Interrupted
            current.bytes += _size(event)
            if current.bytes > STEP_BYTES_MAX:
                raise StepTooLarge
            frames = current.recorder.add(event)
            current.sent += len(frames)
            self._held.writer.push([wire.encode(frame) for frame in frames])
            if isinstance(event, ModelEnd):
                current.end = event
                return event
        raise ModelTimeout("The model's stream broke off")

    async def _finish(self, end: ModelEnd) -> None:
        message = self._try.recorder.finish(self._held.attempt, end)
        following = next_step(self._held.preview(message))
        ending = (following.command,) if isinstance(following, Finish) else ()
        await self._held.append(message, *ending, sent=self._try.sent)

    async def _fail(self, code: FailureCode, sentence: str) -> None:
        failure = c.FailRun(attempt=self._held.attempt, code=code, sentence=sentence)
        try:
            await self.end(failure)
        except VersionConflict:
            raise
        except AppendRefused:  # what was streamed cannot be stored: the run ends without it
            self._try = _Try(self._held)
            await self.end(failure)

    async def _may_try_again(self, tries: int, error: ModelError) -> bool:
        """After a pause, inside the run's budget; else the run has failed.

        False also when the process is to end meanwhile: the next worker makes the call.
        """
        held = self._held
        seconds = pause_seconds(tries, error, self._chance())
        logger.warning(
            "run %s: try %d of a model call: %s", held.run_id, tries, type(error).__name__
        )
        if not held.retries.grants(tries, seconds):
            await self._fail("model_unavailable", f"{error}: {held.retries.sentence(tries)}")
            return False
        await self.end()
        self._try = _Try(held)
        try:
            await until_interrupted(
                self._clock.sleep(seconds),
                held.interrupt,
                held.stopping,
                timeout_seconds=PAUSE_SECONDS_MAX,
            )
        except Interrupted:
            if held.interrupt.is_set():
                raise
            return False
        return True

    async def end(self, *ending: c.Command, error_text: str = BROKEN_OFF) -> None:
        """Cut short: keep what was streamed so far, closed, and end the run with it if told to."""
        current, attempt = self._try, self._held.attempt
        kept = (
            ()
            if current.recorder.is_empty
            else (current.recorder.interrupt(attempt, error_text, current.end),)
        )
        if kept or ending:
            await self._held.append(*kept, *ending, sent=current.sent)


def _size(event: ModelEvent) -> int:
    """Of what is kept. A call's input is kept twice: as the model wrote it, and parsed."""
    match event:
        case model.TextDelta(text=text) | model.ReasoningDelta(text=text):
            return len(text.encode("utf-8", "replace"))
        case model.ToolInputDelta(text=text):
            return 2 * len(text.encode("utf-8", "replace"))
        case _:
            return 0
