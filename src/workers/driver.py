"""Drives one run to its end: fold → next_step → one effect → one append → … → Done.

Whatever a step was when a worker died, the next worker folds the same stream and asks the same
question. So this loop has no recovery path: `takeover` puts the fence up, that is all.
"""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

from runs_domain import commands as c
from runs_domain import plan
from runs_domain.closing import CANCELLED
from runs_domain.errors import (
    AppendRefused,
    Refused,
    RunledgerError,
    RunNotFound,
    SandboxNotFound,
    StaleAttempt,
    VersionConflict,
)
from runs_domain.events import FailureCode
from runs_domain.faults import log_fault
from runs_domain.history import messages_for_model
from runs_domain.ids import RunId, sandbox_name
from runs_domain.model_port import Model, ModelRequest
from runs_domain.ports import ChunkStream, Clock, EventLog, Job, KeyRow
from runs_domain.sandbox_port import SandboxProvider
from workers.agent.model_step import BROKEN_OFF, INTERNAL_ERROR, ModelStep
from workers.agent.prompt import system_prompt
from workers.agent.tool_step import ToolStep
from workers.agent.tools.registry import Tools
from workers.burials import Burials
from workers.cancel_watch import CancelWatch
from workers.chunk_writer import CHUNKS_KEPT_SECONDS
from workers.held_run import HeldRun
from workers.interrupt import Interrupted
from workers.retry_budget import RetryLimits
from workers.run_keys import RunKeys
from workers.run_sandbox import RunSandbox
from workers.takeover import recover_stream, take

logger = logging.getLogger(__name__)

WORKING_DIRECTORY: Final = "/workspace"
KEY_LOST: Final = "The run's API key was revoked or is gone"
WORKSPACE_LOST: Final = "The run's workspace is not on the host that took the run over"


@dataclass(slots=True)
class DriverCounters:
    """Jobs that there was nothing to do for; shown for the whole fleet (`fleet_counters`)."""

    unknown_runs: int = 0
    ended_runs: int = 0
    left_alone: int = 0


class Driver:
    """One per worker process; `drive` runs once per job, many at a time."""

    def __init__(
        self,
        *,
        log: EventLog,
        chunks: ChunkStream,
        model: Model,
        sandboxes: SandboxProvider,
        tools: Tools,
        keys: RunKeys,
        watch: CancelWatch,
        clock: Clock,
        tool_timeout_seconds: float,
        worker_id: str,
        burials: Burials,
        retry_limits: RetryLimits | None = None,
        chunks_kept_seconds: int = CHUNKS_KEPT_SECONDS,
    ) -> None:
        self.counters = DriverCounters()
        self._log = log
        self._chunks = chunks
        self._model = model
        self._sandboxes = sandboxes
        self._tools = tools
        self._specs = tools.specs if sandboxes.capabilities.exec else ()
        self._tool_timeout_seconds = tool_timeout_seconds
        self._worker_id = worker_id
        self._retry_limits = retry_limits
        self._chunks_kept_seconds = chunks_kept_seconds
        self._keys = keys
        self._watch = watch
        self._clock = clock
        self._burials = burials

    async def drive(
        self, job: Job, *, redelivered: bool, stopping: asyncio.Event, last_error: str = ""
    ) -> bool:
        """True = done as far as this job goes; False = `stopping` was set first: hand it over.

        A run that is unknown or another worker's is left alone. NotForThisWorker: nothing was
        begun, others can. Whatever else is raised leaves the job to be redelivered. `last_error`
        is what broke it the last time, if that is known.
        """
        run_id = RunId(UUID(job.id))
        held = HeldRun(
            run_id,
            self._log,
            self._chunks,
            self._clock,
            worker_id=self._worker_id,
            stopping=stopping,
            retry_limits=self._retry_limits,
            chunks_kept_seconds=self._chunks_kept_seconds,
        )
        held.last_error = last_error or plan.WORKER_LOST
        try:
            if await take(
                held,
                job,
                self._chunks,
                redelivered=redelivered,
                serves=self._model.serves,
                now=self._clock.now(),
            ):
                await self._keys.renew(held)
                await recover_stream(held, self._log, self._chunks)
            if isinstance(self._next_step(held), plan.Done):
                self.counters.ended_runs += 1
                logger.info("dropped a job: run %s had ended before", job.id)
                return True
            async with (
                RunSandbox(self._sandboxes, self._keys, held) as sandbox,
                self._keys.kept_alive(held),
                self._watch.watching(held),
            ):
                return await self._drive(held, sandbox)
        except StaleAttempt as reason:
            self.counters.left_alone += 1
            logger.info("run %s is left alone: %s", job.id, reason)
            return True
        except RunNotFound:
            self.counters.unknown_runs += 1
            logger.warning("dropped a job: the event log does not know run %s", job.id)
            return True
        finally:
            await held.writer.close(ended=held.state.ending is not None)

    async def _drive(self, held: HeldRun, sandbox: RunSandbox) -> bool:
        while not isinstance(step := self._next_step(held), plan.Done):
            if held.stopping.is_set() and held.state.ending is None:
                return False
            try:
                await self._perform(step, held, sandbox)
            except RunledgerError:
                raise
            except Exception as error:
                if held.state.ending is not None:
                    raise  # nothing is left to fail: the job is tried again, after a pause
                log_fault(logger, f"run {held.run_id}: a step broke", error)
                await self._fail(held, "internal", INTERNAL_ERROR)
        return True

    def _next_step(self, held: HeldRun) -> plan.Step:
        step = plan.next_step(held.state, last_error=held.last_error)
        if not held.key_lost or isinstance(step, plan.Finish | plan.ReleaseSandbox | plan.Done):
            return step
        failure = c.FailRun(attempt=held.attempt, code="internal", sentence=KEY_LOST)
        return plan.Finish(command=failure)

    async def _perform(self, step: plan.Step, held: HeldRun, sandbox: RunSandbox) -> None:
        match step:
            case plan.Provision() | plan.MintKey() | plan.Start():
                await self._begin(held)
            case plan.CallModel():
                await self._call_model(held, step)
            case plan.RunTools():
                await self._run_tools(held, step, sandbox)
            case plan.Finish():
                await self._append(held, step.command)
            case plan.ReleaseSandbox():
                await self._burials.bury_run(held)  # first: a released run is closed for good
                found = await sandbox.release()
                await held.append(c.RecordSandboxReleased(found=found))
            case plan.Done():
                pass

    async def _append(
        self, held: HeldRun, *commands: c.Command, mint: KeyRow | None = None
    ) -> None:
        """A refusal is no fault if somebody cancelled first: the newest state says what is next."""
        try:
            await held.append(*commands, mint=mint)
        except Refused:
            if held.state.ending is None and not held.state.cancel_requested:
                raise

    async def _fail(self, held: HeldRun, code: FailureCode, sentence: str) -> None:
        command = c.FailRun(attempt=held.attempt, code=code, sentence=sentence)
        await self._append(held, command)

    async def _begin(self, held: HeldRun) -> None:
        """Nothing slow lies between these three, so they are one append."""
        state, attempt = held.state, held.attempt
        mint = self._keys.key_of(held).row if state.key is None else None
        commands: list[c.Command] = []
        if state.provisioned is None:
            commands.append(
                c.RecordProvisioned(
                    attempt=attempt,
                    sandbox=sandbox_name(held.requested.session_id),
                    provider=self._sandboxes.name,
                    state="named",
                    working_directory=WORKING_DIRECTORY,
                )
            )
        if mint is not None:
            commands.append(
                c.MintKey(
                    attempt=attempt,
                    key_id=mint.key_id,
                    secret_version=mint.secret_version,
                    ttl_seconds=mint.ttl_seconds,
                    scopes=mint.scopes,
                )
            )
        if not state.started:
            commands.append(c.StartRun(attempt=attempt))
        await self._append(held, *commands, mint=mint)

    async def _call_model(self, held: HeldRun, step: plan.CallModel) -> None:
        call = ModelStep(held, self._model, self._clock, partial(self._request, held, step.step))
        try:
            await call.perform()
        except (Interrupted, Refused) as cut:
            await self._cut_short(held, call, cut)

    async def _cut_short(self, held: HeldRun, call: ModelStep, cut: Interrupted | Refused) -> None:
        """Keep what was streamed, and end the run with it if that is why."""
        while (ending := await self._why_stop(held)) is not None or isinstance(cut, Interrupted):
            error_text = CANCELLED if held.state.cancel_requested else BROKEN_OFF
            try:
                await call.end(*(() if ending is None else (ending,)), error_text=error_text)
            except Refused as refused:  # a cancel came first after all
                cut = refused
            else:
                return
        if held.state.ending is None:
            raise cut

    async def _why_stop(self, held: HeldRun) -> c.CancelRun | c.FailRun | None:
        """How the run must end, by the log; None if it has ended, or if it was a false alarm."""
        await held.catch_up()
        if held.state.ending is not None:
            return None
        if held.state.cancel_requested:
            return c.CancelRun(attempt=held.attempt)
        if held.key_lost:
            return c.FailRun(attempt=held.attempt, code="internal", sentence=KEY_LOST)
        held.interrupt.clear()
        return None

    def _request(self, held: HeldRun, step: int, tried: int) -> ModelRequest:
        state, requested = held.state, held.requested
        return ModelRequest(
            run_id=held.run_id,
            attempt=held.attempt,
            step=step,
            attempt_tries=tried,
            model=requested.model,
            system=system_prompt(requested, state.provisioned, self._specs, held.call_due_at),
            messages=messages_for_model(requested.messages, state.parts, state.hidden_parts),
            tools=self._specs,
        )

    async def _run_tools(self, held: HeldRun, step: plan.RunTools, sandbox: RunSandbox) -> None:
        tools = ToolStep(held, self._tools, sandbox.get, timeout_seconds=self._tool_timeout_seconds)
        try:
            await tools.perform(step)
        except SandboxNotFound:
            await self._fail(held, "workspace_lost", WORKSPACE_LOST)
        except VersionConflict:
            raise
        except AppendRefused as error:
            log_fault(logger, f"run {held.run_id}: a tool's result cannot be stored", error)
            await self._fail(held, "internal", INTERNAL_ERROR)
        except (Interrupted, Refused) as cut:
            ending = await self._why_stop(held)
            if ending is not None:
                await self._append(held, ending)
            elif isinstance(cut, Refused) and held.state.ending is None:
                raise
