"""One run, up to three workers, and every order of their calls.

The workers are real (`Driver` with takeover, held run and chunk writer); their calls to the log,
the chunks, the queue, the model and the tools stop at gates. What is checked after each call is
written down here as if nobody knew how the workers keep it.
"""

import asyncio
import contextvars
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from runs_domain import events as e
from runs_domain.errors import RunledgerError
from runs_domain.frames import encode, frames_of
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import Append, Fence, Job, Recorded
from runs_domain.run import fold
from runs_domain.storage import redis_names as names
from runs_domain.storage.memory_chunks import MemoryChunks
from runs_domain.storage.redis_chunks import RedisChunks
from tests.support.builders import ACCOUNT, RUN
from tests.support.driving import Note, World
from tests.support.gates import WORKER, Gate, Gated, Gates
from tests.support.leased_jobs import LeasedJobs, Taken
from workers.agent.tools.tool import ToolContext
from workers.reconciler import RESEND_GRACE_SECONDS, Reconciler

SCRIPT = json.dumps(
    {
        "calls": [
            {"text": "one two three four", "tools": [{"name": "note", "input": {"text": "paid"}}]},
            {"text": "five six seven eight"},
        ]
    }
)
CHUNK_CALLS = ("raise_attempt", "tail", "write", "restart", "expire")
SETTLE_ROUNDS_MAX = 12
"""Each brings a worker a job, or the reconciler one to the queue."""
SETTLE_CALLS_MAX = 300
"""Of all workers in one round; a whole run takes a quarter of it."""


class Broken(AssertionError):
    """An invariant does not hold."""


def must(condition: object, sentence: str) -> None:
    if not condition:
        raise Broken(sentence)


@dataclass(eq=False)
class ModelWorker:
    name: str
    task: "asyncio.Task[None] | None" = None
    taken: Taken | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class RunModel:
    """All methods but the ports' own are the test's: they happen at once, gates or not."""

    def __init__(
        self, jobs: LeasedJobs, chunks: "MemoryStore | RedisStore", *, reconciles: bool = True
    ) -> None:
        self.gates = Gates()
        self.jobs = jobs
        self.chunks = _WatchedChunks(chunks, self)
        self.world = World()
        self.log = self.world.log
        self.reconciles = reconciles
        self.attempt = Attempt(1)
        """Whose the run is, by the log."""
        self.wipes = 0
        self.in_gap = False
        """The one way through the fence (decision 0010): Redis was wiped between the last
        attempt's fence and its `resumed`, and the fence is not up again."""
        self.raised: dict[tuple[str | None, Attempt], int] = {}
        """After how many wipes a worker put up its fence."""
        self.latest: ModelWorker | None = None
        """Who was given the job last."""
        self.given_after = 0
        """After how many wipes."""
        self.failure: BaseException | None = None
        self.at_the_end: list[Callable[[], Awaitable[None]]] = []
        self._workers = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._reconciler = Reconciler(self.log, jobs.queue)
        append = self.log.append

        async def watched(given: Append) -> tuple[Recorded, ...]:
            recorded = await append(given)
            for entry in recorded:
                self._appended(entry.event)
            return recorded

        self.log.append = watched  # type: ignore[method-assign]

    async def start(self, *, sent: bool) -> None:
        await self.world.request(SCRIPT, "scripted/playbook")
        if sent:
            await self.jobs.queue.send(Job(kind="run", id=str(RUN), account_id=str(ACCOUNT)))

    # ------------------------------------------------------------------ workers

    def worker(self) -> ModelWorker:
        self._workers += 1
        return ModelWorker(f"worker-{self._workers}")

    async def begin(self, worker: ModelWorker) -> None:
        """It goes to look for a job."""
        context = contextvars.copy_context()
        context.run(WORKER.set, worker.name)
        worker.task = asyncio.get_running_loop().create_task(self._work(worker), context=context)
        self._tasks.append(worker.task)
        await self.gates.stand_still()

    async def _work(self, worker: ModelWorker) -> None:
        await self.gates.through("take")
        with self.gates.running():
            taken = worker.taken = await self.jobs.take(worker.name)
        if taken is None:
            return
        self.latest, self.given_after = worker, self.wipes
        cause = "handover"
        try:
            done = await self._driver().drive(
                taken.job, redelivered=taken.redelivered, stopping=worker.stopping, last_error=""
            )
        except RunledgerError:
            done, cause = False, "resent"
        except Exception as error:  # noqa: BLE001 - told by the next check
            self.failure = error
            return
        await self.gates.through("end")
        with self.gates.running():
            if done:
                await self.jobs.finish(worker.name, taken)
            else:
                job = msgspec.structs.replace(taken.job, cause=cause)
                await self.jobs.requeue(worker.name, taken, job)
        worker.taken = None
        if self.latest is worker:
            self.latest = None

    def _driver(self) -> Any:
        """A new one, all of whose calls stop at gates."""
        world, gates = self.world, self.gates
        kept = (world.log, world.chunks, world.model)
        anything: Any = world
        anything.log = Gated(self.log, gates, "read", "append")
        anything.chunks = Gated(self.chunks, gates, *CHUNK_CALLS)
        anything.model = _GatedModel(world.model, gates)
        world.note = world.note if isinstance(world.note, _GatedNote) else _GatedNote(gates)
        try:
            return world.driver()
        finally:
            anything.log, anything.chunks, anything.model = kept

    def waiting(self, worker: ModelWorker) -> list[Gate]:
        return [gate for gate in self.gates.waiting if gate.worker == worker.name]

    async def renew(self, worker: ModelWorker) -> None:
        """Its lease's thread does; whose lease is lost stops its work."""
        if worker.taken is None or worker.task is None or worker.task.done():
            return
        renewed = await self.jobs.renew(worker.name, worker.taken)
        if renewed and (self.latest is None or self.wipes > self.given_after):
            # Redis forgot whose it was: the first to ask has it, maybe one who had lost it before.
            # The run's own fence is what still holds him off.
            self.latest, self.given_after = worker, self.wipes
        must(
            not renewed or worker is self.latest,
            f"{worker.name} got back a lease that was {self.latest and self.latest.name}'s",
        )
        must(
            renewed or worker is not self.latest,
            f"{worker.name} lost its lease, and nobody had taken the job",
        )
        if not renewed:
            worker.taken = None
            worker.task.cancel()
            await self.gates.stand_still()

    # ------------------------------------------------------------------ the world

    async def wipe(self) -> None:
        await self.jobs.wipe()
        await self.chunks.forget()
        self.wipes += 1
        self.in_gap = False

    async def reconcile(self) -> None:
        await self.world.clock.sleep(2 * RESEND_GRACE_SECONDS)
        if self.reconciles:
            await self._reconciler.tick()

    def _appended(self, event: e.Event) -> None:
        if isinstance(event, e.Resumed):
            self.attempt = event.attempt
            raised_after = self.raised.get((WORKER.get(), event.attempt))
            self.in_gap = raised_after is not None and raised_after < self.wipes

    # ------------------------------------------------------------------ invariants

    async def check(self) -> None:
        if isinstance(self.failure, Broken):
            raise self.failure
        if self.failure is not None:
            raise Broken(f"a worker broke: {type(self.failure).__name__}") from self.failure
        recorded = await self.log.read(RUN)
        _check_log(recorded)
        notes = self.world.note.notes
        must(len(notes) <= 1, "a tool call that may not be repeated ran twice")
        await self._check_frames([entry.event for entry in recorded])

    async def _check_frames(self, history: Sequence[e.Event]) -> None:
        """What Redis has, as far as the log's attempt vouches for it, is what the log says."""
        told = [encode(frame) for frame in frames_of(RUN, history)]
        base, frames, attempt = await self.chunks.contents()
        if attempt != self.attempt:
            return
        for index, frame in enumerate(frames, base):
            must(
                index >= len(told) or frame == told[index],
                f"frame {index} is {frame!r} in Redis",
            )
        ended = any(isinstance(event, e.Ending) for event in history)
        must(not ended or base + len(frames) <= len(told), "frames go on after the run's end")

    async def settle(self) -> None:
        """Everybody who lives goes on: the run must come to its end, and the job with it."""
        workers = [self.worker() for _ in range(2)]
        for _ in range(SETTLE_ROUNDS_MAX):
            await self.reconcile()
            await self.jobs.lapse()
            for worker in workers:
                if worker.task is None or worker.task.done():
                    worker.taken = None
                    await self.begin(worker)
            for _ in range(SETTLE_CALLS_MAX):
                if not self.gates.waiting:
                    break
                await self.gates.open(self.gates.waiting[0])
                await self.check()
            must(not self.gates.waiting, "the workers do not come to an end")
            history = [entry.event for entry in await self.log.read(RUN)]
            if fold(history).sandbox_released:
                break
        state = fold(history)
        must(state.ending is not None, "the run was lost: it has no end")
        must(state.sandbox_released, "the run's sandbox was never given back")
        failed = isinstance(state.ending, e.Failed)
        must(failed or state.model_steps == 2, "the run completed without its steps")

    async def bury(self, worker: ModelWorker) -> None:
        """kill -9: nothing of it is ever heard of again."""
        for gate in self.waiting(worker):
            self.gates.waiting.remove(gate)

    async def close(self) -> None:
        """A cancelled worker cleans up, and waits while it does: it is cancelled there too."""
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0)
        for close in self.at_the_end:
            await close()


def _check_log(recorded: Sequence[Recorded]) -> None:
    kinds = [type(entry.event) for entry in recorded]
    endings = [at for at, kind in enumerate(kinds) if kind in (e.Completed, e.Failed, e.Cancelled)]
    must(len(endings) <= 1, "a run ended twice")
    if endings:
        revoked = [e.KeyRevoked] if e.KeyMinted in kinds else []
        rest = kinds[endings[0] + 1 :]
        must(rest in (revoked, [*revoked, e.SandboxReleased]), f"after the end came {rest}")
    for once in (e.Requested, e.Provisioned, e.KeyMinted, e.Started):
        must(kinds.count(once) <= 1, f"{once.__name__} twice")
    _check_attempts(recorded)
    finished = [
        entry.event.first_part
        for entry in recorded
        if isinstance(entry.event, e.MessagePersisted)
        and entry.event.finish_reason is not None
        and not entry.event.interrupted
    ]
    must(len(finished) <= 2, "a finished step was repeated")
    calls = [
        call
        for entry in recorded
        if isinstance(entry.event, e.ToolStarted)
        for call in entry.event.call_ids
    ]
    must(len(calls) == len(set(calls)), "a call was started twice")


def _check_attempts(recorded: Sequence[Recorded]) -> None:
    attempt = 1
    holders: dict[int, str] = {}
    for entry in recorded:
        match entry.event:
            case e.Resumed(attempt=resumed):
                must(resumed == attempt + 1, f"attempt {resumed} followed attempt {attempt}")
                attempt = resumed
            case e.Requested() | e.SandboxReleased():
                pass
            case _:
                must(entry.attempt == attempt, f"attempt {entry.attempt} appended late")
                holder = holders.setdefault(attempt, entry.actor)
                must(holder == entry.actor, f"two workers appended as attempt {attempt}")


# ---------------------------------------------------------------------------------- ports


class _WatchedChunks:
    """Checks that no frame of a lower attempt than the log's is taken, but in the gap."""

    def __init__(self, chunks: Any, model: RunModel) -> None:
        self._chunks = chunks
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chunks, name)

    async def raise_attempt(self, run_id: RunId, attempt: Attempt) -> Fence:
        fence: Fence = await self._chunks.raise_attempt(run_id, attempt)
        self._model.raised[WORKER.get(), attempt] = self._model.wipes
        self._stands(attempt)
        return fence

    async def tail(self, run_id: RunId, fence: Fence, index: int) -> Any:
        tail = await self._chunks.tail(run_id, fence, index)
        self._stands(fence.attempt)
        return tail

    async def write(self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]) -> bool:
        taken: bool = await self._chunks.write(run_id, fence, index, frames)
        if taken:
            self._wrote(fence.attempt)
        return taken

    async def restart(
        self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]
    ) -> None:
        await self._chunks.restart(run_id, fence, index, frames)
        self._wrote(fence.attempt)

    def _stands(self, attempt: Attempt) -> None:
        if attempt >= self._model.attempt:
            self._model.in_gap = False

    def _wrote(self, attempt: Attempt) -> None:
        model = self._model
        if attempt < model.attempt and not model.in_gap:  # told by the next check, not to a worker
            sentence = f"attempt {attempt} wrote chunks after attempt {model.attempt} had resumed"
            model.failure = model.failure or Broken(sentence)
        self._stands(attempt)


class _GatedModel:
    def __init__(self, model: Any, gates: Gates) -> None:
        self._model = model
        self._gates = gates

    def serves(self, model_id: str) -> bool:
        return bool(self._model.serves(model_id))

    async def stream(self, request: Any) -> Any:
        async for event in self._model.stream(request):
            await self._gates.through("model")
            yield event


class _GatedNote(Note):
    def __init__(self, gates: Gates) -> None:
        super().__init__()
        self._gates = gates

    async def run(self, given: Any, context: ToolContext) -> e.Json:
        await self._gates.through("tool")
        return await super().run(given, context)


Contents: TypeAlias = tuple[int, list[bytes], Attempt]
"""Base, frames, and who wrote last."""


class MemoryStore(MemoryChunks):
    async def forget(self) -> None:
        self.wipe()

    async def contents(self) -> Contents:
        stream = self._streams.get(RUN)
        if stream is None or stream.base is None:
            return 0, [], Attempt(0)
        return stream.base, stream.frames, stream.attempt


class RedisStore(RedisChunks):
    async def forget(self) -> None:
        """The queue's wipe took all there was."""

    async def contents(self) -> Contents:
        base, attempt = await self._redis.hmget(names.chunk_state(RUN), "base", "attempt")  # type: ignore[misc]
        if base is None:
            return 0, [], Attempt(0)
        frames = await self._redis.lrange(names.chunk_frames(RUN), 0, -1)  # type: ignore[misc]
        return int(base), frames, Attempt(int(attempt))
