"""The crash points of a worker: each of its ports with a point before and after what it does."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from runs_domain.dead_letters_port import DeadLetters
from runs_domain.events import TAGS
from runs_domain.ids import RunId
from runs_domain.model_port import Model, ModelEnd, ModelEvent, ModelRequest
from runs_domain.ports import Append, ChunkStream, EventLog, Fence, KeyLeases, Recorded
from runs_domain.sandbox_port import Sandbox, SandboxProvider, SandboxSpec
from runs_domain.storage.crash_points import CrashPoints, replaced
from runs_domain.storage.redis_deliveries import Entry, JobDeliveries
from workers.agent.tools.registry import Tools
from workers.agent.tools.tool import Tool


class WorkerCrashPoints:
    """Every method gives back what it is given as long as `points` are off."""

    def __init__(self, points: CrashPoints) -> None:
        self._points = points

    def log(self, log: EventLog) -> EventLog:
        async def append(given: Append) -> tuple[Recorded, ...]:
            what = "+".join(TAGS[type(event)] for event in given.events)
            with self._points.around("append", what=what):
                return await log.append(given)

        return replaced(log, append=append) if self._points.on else log

    def chunks(self, chunks: ChunkStream) -> ChunkStream:
        async def write(run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]) -> bool:
            with self._points.around("chunk", times=len(frames)):
                return await chunks.write(run_id, fence, index, frames)

        if not self._points.on:
            return chunks
        raise_attempt = self._points.call("raise", chunks.raise_attempt)
        return replaced(chunks, write=write, raise_attempt=raise_attempt)

    def model(self, model: Model) -> Model:
        async def stream(request: ModelRequest) -> AsyncIterator[ModelEvent]:
            self._points.reached("model.before")
            async for event in model.stream(request):
                self._points.reached("model.streaming", what=type(event).__name__)
                if isinstance(event, ModelEnd):
                    self._points.reached("model.after")
                yield event

        return replaced(model, stream=stream) if self._points.on else model

    def tools(self, tools: Tools) -> Tools:
        return Tools(self._each(tools)) if self._points.on else tools

    def _each(self, tools: Tools) -> Iterable[Tool]:
        for tool in map(tools.get, tools.names()):
            if tool is not None:
                yield replaced(tool, run=self._points.call("tool", tool.run))

    def sandboxes(self, provider: SandboxProvider) -> SandboxProvider:
        async def open_(
            spec: SandboxSpec, *, key: Callable[[], Awaitable[str]]
        ) -> tuple[Sandbox, bool]:
            with self._points.around("open"):
                sandbox, created = await provider.open(spec, key=key)
            return self._sandbox(sandbox), created

        async def find(name: str) -> Sandbox | None:
            found = await provider.find(name)
            return None if found is None else self._sandbox(found)

        return replaced(provider, open=open_, find=find) if self._points.on else provider

    def _sandbox(self, sandbox: Sandbox) -> Sandbox:
        return replaced(sandbox, destroy=self._points.call("destroy", sandbox.destroy))

    def key_leases(self, leases: KeyLeases) -> KeyLeases:
        if not self._points.on:
            return leases
        return replaced(leases, renew=self._points.call("renew", leases.renew))

    def dead_letters(self, letters: DeadLetters) -> DeadLetters:
        bury = self._points.call("bury", letters.bury)
        return replaced(letters, bury=bury) if self._points.on else letters

    def deliveries(self, deliveries: JobDeliveries) -> JobDeliveries:
        async def read(count: int, *, wait_seconds: float) -> list[Entry]:
            entries = await deliveries.read(count, wait_seconds=wait_seconds)
            self._points.reached("take.after", times=len(entries))
            return entries

        async def reclaim(count: int, running: Iterable[str]) -> list[Entry]:
            entries = await deliveries.reclaim(count, running)
            self._points.reached("take.after", times=len(entries))
            return entries

        if not self._points.on:
            return deliveries
        return replaced(
            deliveries,
            read=read,
            reclaim=reclaim,
            finish=self._points.call("ack", deliveries.finish),
            requeue=self._points.call("requeue", deliveries.requeue),
        )
