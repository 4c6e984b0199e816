"""A driver on the in-memory twins: everything of a run but processes and servers."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from runs_domain.events import Event, Json
from runs_domain.frames import decode
from runs_domain.handle import handle, load
from runs_domain.ids import Attempt, KeyId, RunId
from runs_domain.keys import DerivedKeyIssuer, ServerSecrets
from runs_domain.model_port import Model, ModelEvent, ModelRequest
from runs_domain.ports import Context, Job, Recorded
from runs_domain.run import RunState
from runs_domain.settings import Secret
from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.memory_chunks import MemoryChunks
from runs_domain.storage.memory_dead_letters import MemoryDeadLetters
from tests.support.builders import ACCOUNT, RUN, request_run, user_message
from workers.adapters.model_scripted import ScriptedModel
from workers.adapters.sandbox_none import NoSandboxProvider
from workers.agent.tools.registry import Tools
from workers.agent.tools.tool import ToolContext, ToolInput
from workers.burials import Burials
from workers.cancel_watch import CancelWatch
from workers.driver import Driver
from workers.retry_budget import RetryLimits
from workers.run_keys import RunKeys

SECRETS = ServerSecrets({1: Secret("s" * 32)}, current=1)


class TestClock:
    """Time passes only when somebody sleeps; sleeping gives way to the others."""

    __test__ = False

    def __init__(self) -> None:
        self.slept_seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.slept_seconds)

    def monotonic_seconds(self) -> float:
        return self.slept_seconds

    async def sleep(self, seconds: float) -> None:
        if seconds > 60:
            await asyncio.Event().wait()
        self.slept_seconds += seconds
        await asyncio.sleep(0)  # noqa: TID251 - gives way, does not wait


class Pushes:
    """The worker's side of cancel pushes, without Redis."""

    def __init__(self) -> None:
        self._watched: list[tuple[RunId, asyncio.Event]] = []

    @asynccontextmanager
    async def watching(self, run_id: RunId) -> AsyncIterator[asyncio.Event]:
        """Several may watch one run: who lost it does so until it has noticed."""
        watched = run_id, asyncio.Event()
        self._watched.append(watched)
        try:
            yield watched[1]
        finally:
            self._watched.remove(watched)

    def push(self, run_id: RunId) -> None:
        for watched, event in self._watched:
            if watched == run_id:
                event.set()


class Leases:
    def __init__(self) -> None:
        self.renewed: list[KeyId] = []

    async def renew(self, run_id: RunId, key_id: KeyId, *, ttl_seconds: int) -> bool:
        self.renewed.append(key_id)
        return True


class NoteInput(ToolInput, frozen=True):
    text: str = ""


class Note:
    """A tool with a side effect that a test can count; `before` may wait, fail or raise."""

    input_type: type[ToolInput] = NoteInput
    description = "Takes a note."

    def __init__(self, name: str = "note", *, repeatable: bool = False) -> None:
        self.name = name
        self.repeatable = repeatable
        self.notes: list[str] = []
        self.before: Callable[[str], Any] | None = None

    async def run(self, given: Any, context: ToolContext) -> Json:
        if self.before is not None:
            await self.before(given.text)
        self.notes.append(given.text)
        return {"noted": given.text}


class ExecProvider(NoSandboxProvider):
    """Says that it can run tools; the tools of these tests need no sandbox."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = type(self.capabilities)(exec=True)


class World:
    """Log, chunks, model and tools that outlive the workers of a test."""

    def __init__(self, model: Model | None = None) -> None:
        self.clock = TestClock()
        self.log = MemoryEventLog(SECRETS, self.clock)
        self.chunks = MemoryChunks()
        self.model = model or ScriptedModel(self.clock)
        self.note = Note()
        self.look = Note("look", repeatable=True)
        self.pushes = Pushes()
        self.leases = Leases()
        self.requests: list[ModelRequest] = []
        self.sandboxes: Any = ExecProvider()
        self.letters = MemoryDeadLetters(self.log, self.clock)
        self.burials = Burials(self.letters)
        self.retry_limits = RetryLimits()
        self.tool_timeout_seconds = 5.0
        self._workers = itertools.count(1)

    def driver(self) -> Driver:
        """A new worker."""
        issuer = DerivedKeyIssuer(SECRETS, "recoup_sk_")
        return Driver(
            log=self.log,
            chunks=self.chunks,
            model=_Counting(self.model, self.requests),
            sandboxes=self.sandboxes,
            tools=Tools((self.note, self.look)),
            keys=RunKeys(issuer, self.leases, self.clock, secret_version=1, ttl_seconds=900),
            watch=CancelWatch(self.log, self.pushes, self.clock),
            clock=self.clock,
            tool_timeout_seconds=self.tool_timeout_seconds,
            worker_id=f"test-{next(self._workers)}",
            burials=self.burials,
            retry_limits=self.retry_limits,
        )

    async def request(self, text: str = "one two", model: str = "scripted/echo") -> None:
        command = request_run(model=model, messages=(user_message(text),))
        await handle(self.log, RUN, command, self.context("api"))

    def context(self, actor: str) -> Context:
        return Context(
            actor=actor, subject=ACCOUNT, correlation="c", causation="c", attempt=Attempt(1)
        )

    async def drive(
        self,
        cause: Any = "fresh",
        *,
        redelivered: bool = False,
        stopping: bool | asyncio.Event = False,
        last_error: str = "",
    ) -> bool:
        stop = stopping if isinstance(stopping, asyncio.Event) else asyncio.Event()
        if stopping is True:
            stop.set()
        job = Job(kind="run", id=str(RUN), account_id=str(ACCOUNT), cause=cause)
        return await self.driver().drive(
            job, redelivered=redelivered, stopping=stop, last_error=last_error
        )

    async def lose_worker_in(self, tool: Note) -> None:
        """A worker drives the run until `tool` is at work, and dies there."""
        at_work = asyncio.Event()

        async def before(_: str) -> None:
            at_work.set()
            await asyncio.Event().wait()

        tool.before = before
        driving = asyncio.create_task(self.drive())
        await at_work.wait()
        driving.cancel()
        await asyncio.wait({driving})
        tool.before = None

    async def recorded(self) -> tuple[Recorded, ...]:
        return await self.log.read(RUN)

    async def events(self) -> list[Event]:
        return [entry.event for entry in await self.recorded()]

    async def tags(self) -> list[str]:
        return [
            entry.type.removeprefix("run.").removesuffix(".v1") for entry in await self.recorded()
        ]

    async def state(self) -> RunState:
        return (await load(self.log, RUN)).state

    async def live_frames(self) -> list[Any]:
        tail = await self.chunks.read(RUN, 0, count=100_000)
        return [] if tail is None else [decode(chunk) for chunk in tail.frames]


class _Counting:
    def __init__(self, model: Model, requests: list[ModelRequest]) -> None:
        self._model = model
        self._requests = requests

    def serves(self, model_id: str) -> bool:
        return self._model.serves(model_id)

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        self._requests.append(request)
        async for event in self._model.stream(request):
            yield event
