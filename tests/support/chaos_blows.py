"""Strikes a stack, blow after blow, and puts right what no other process would.

Blows overlap; those on one part wait for each other. Servers are stopped and started on the main
thread, which the kernel ties them to: clients of this process stand still meanwhile.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Final, Protocol

import redis

from tests.support.chaos_plan import LINK_BLOWS, Blow
from tests.support.nursery import ForkedWorker, Nursery
from tests.support.stacks import LinkedStack
from tests.support.waiting import until

WORKERS: Final = 3
FLUSH_SECONDS_MAX: Final = 5.0
END_SECONDS: Final = 60.0


class Server(Protocol):
    def start(self) -> None: ...
    def stop(self, *, at_once: bool = False) -> None: ...


async def pause(seconds: float) -> None:
    """The plan's own pace; what is waited *for* goes by `until`."""
    await asyncio.sleep(seconds)  # noqa: TID251


class Blows:
    def __init__(self, stack: LinkedStack, nursery: Nursery) -> None:
        self.struck: list[Blow] = []
        self.counts: Counter[str] = Counter()
        self._stack = stack
        self._nursery = nursery
        self._workers: list[ForkedWorker] = []
        self._stopped: list[ForkedWorker] = []
        self._forked = 0
        self._locks = {part: asyncio.Lock() for part in ("redis", "postgres", "api")}
        self._held: list[asyncio.Task[None]] = []

    async def start_workers(self) -> None:
        for _ in range(WORKERS):
            await self._fork()

    async def rain(self, plan: Iterator[Blow]) -> None:
        """Until cancelled; `heal` comes after."""
        for blow in plan:
            await pause(blow.pause_seconds)
            self.struck.append(blow)
            self.counts[blow.what] += 1
            task = asyncio.create_task(self._strike(blow), name=blow.what)
            self._held.append(task)

    async def heal(self) -> None:
        """Every blow's end, then all lines open and every worker awake."""
        await asyncio.gather(*self._held)
        self._stack.links.heal()

    async def check_exits(self) -> None:
        """Workers that were told to stop did, and said that all was well."""
        for worker in self._stopped:
            code = await worker.ended(timeout_seconds=END_SECONDS)
            # Until it has said this it has nothing to give back, and may not know the signal.
            began = "takes jobs" in worker.logged()
            assert code == 0 or not began, f"it ended with {code}: {worker.logged()[-3000:]}"

    async def _strike(self, blow: Blow) -> None:
        if blow.what in LINK_BLOWS:
            await self._break_link(blow)
        else:
            part, _, how = blow.what.partition(" ")
            blow_of: dict[str, Callable[[Blow, str], Awaitable[None]]] = {
                "worker": self._worker,
                "redis": self._redis,
                "postgres": self._postgres,
                "api": self._api,
            }
            await blow_of[part](blow, how)

    async def _break_link(self, blow: Blow) -> None:
        links = self._stack.links
        links.set(blow.link, blow.what, blow.milliseconds)  # type: ignore[arg-type]
        if blow.what != "cut":
            await pause(blow.hold_seconds)
            links.set(blow.link, "open")

    async def _worker(self, blow: Blow, how: str) -> None:
        worker = self._workers[blow.which % len(self._workers)]
        if how == "asleep":
            _signal(worker, signal.SIGSTOP)
            await pause(blow.hold_seconds)
            _signal(worker, signal.SIGCONT)
            return
        self._workers.remove(worker)
        if how == "killed":
            _signal(worker, signal.SIGKILL)
        else:
            _signal(worker, signal.SIGTERM)
            self._stopped.append(worker)
        await self._fork()

    async def _fork(self) -> None:
        self._forked += 1
        log = self._stack.logs / f"forked-{self._forked}.log"
        self._workers.append(await self._nursery.start(self._stack.environment, log))

    async def _redis(self, blow: Blow, how: str) -> None:
        async with self._locks["redis"]:
            if how == "flushed":
                url = self._stack.details["redisUrl"]
                with redis.Redis.from_url(url, socket_timeout=FLUSH_SECONDS_MAX) as server:
                    server.flushall()
            else:
                await self._restart(self._stack.valkey, blow, at_once=how == "killed")

    async def _postgres(self, blow: Blow, how: str) -> None:
        async with self._locks["postgres"]:
            await self._restart(self._stack.postgres, blow, at_once=how == "killed")

    async def _restart(self, server: Server, blow: Blow, *, at_once: bool) -> None:
        server.stop(at_once=at_once)
        await pause(blow.hold_seconds)
        server.start()

    async def _api(self, blow: Blow, how: str) -> None:
        async with self._locks["api"]:
            child = self._stack.api.child
            child.kill(signal.SIGKILL if how == "killed" else signal.SIGTERM)
            await until(lambda: child.exit_code is not None, timeout_seconds=END_SECONDS)
            await pause(blow.hold_seconds)
            self._stack.api.start()


def _signal(worker: ForkedWorker, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # another blow was faster
        worker.kill(number)
