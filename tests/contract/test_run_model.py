"""A model in the small: in whatever order calls, stalls, deaths and wipes come, the run is one."""

import asyncio
import copy
import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runs_domain import run
from runs_domain.ids import RunId
from runs_domain.ports import Fence
from runs_domain.storage import redis_chunks
from runs_domain.storage.redis_client import LuaScript, PipelinedRedis
from runs_domain.storage.redis_pubsub import RedisPubSub
from tests.support import leased_jobs
from tests.support.leased_jobs import MemoryLeases, RedisLeases
from tests.support.redis_twins import KINDS
from tests.support.run_model import (
    CHUNK_CALLS,
    Broken,
    MemoryStore,
    ModelWorker,
    RedisStore,
    RunModel,
)
from workers import chunk_writer, takeover
from workers.agent.tools.registry import Tools
from workers.chunk_writer import ChunkWriter
from workers.held_run import HeldRun

WORKERS = 3
WIPES_MAX = 3
FOR_EVER = 3600.0
"""Time passes in no example: a worker that stands still times out nowhere."""

FAULT_EXAMPLES_MAX = 1500
"""Most faults are found in a tenth of these, as many as find none without a fault."""

which = st.integers(0, WORKERS - 1)
RACE = ("call", "call", "call", "chunk", "chunk", "chunk", "renew", "wipe")
"""A worker's next call, or its chunk writer's; or its lease's thread; or FLUSHALL."""
some = st.sampled_from((1, 2, 3, 4, 5, 8, 12))


class RunMachine(RuleBasedStateMachine):
    def __init__(self, made: Callable[[], RunModel]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = self.do(_made(made))
        self.workers = [self.model.worker() for _ in range(WORKERS)]
        self.latest = 0
        """Who was begun last."""
        self.is_broken = False

    def do(self, what: Any) -> Any:
        try:
            return self.runner.run(what)
        except Broken:
            self.is_broken = True
            raise

    @initialize(sent=st.sampled_from((True, True, True, False)), calls=st.integers(0, 20))
    def request(self, sent: bool, calls: int) -> None:
        self.do(self.model.start(sent=sent))
        self.begin(0)
        self.go_on(self.workers[0], calls, 0)

    @property
    def active(self) -> list[ModelWorker]:
        return [worker for worker in self.workers if self.model.waiting(worker)]

    def go_on(self, worker: ModelWorker, calls: int, place: int) -> None:
        for _ in range(calls):
            waiting = self.model.waiting(worker)
            if not waiting:
                return
            self.do(self.model.gates.open(waiting[place % len(waiting)]))
            self.do(self.model.check())

    @property
    def idle(self) -> list[int]:
        places = enumerate(self.workers)
        return [number for number, one in places if one.task is None or one.task.done()]

    @precondition(lambda self: self.idle)
    @rule(number=which)
    def begin(self, number: int) -> None:
        """An idle worker looks for a job; one that was killed is started anew."""
        if self.idle:
            self.latest = self.idle[number % len(self.idle)]
            worker = self.workers[self.latest] = self.model.worker()
            self.do(self.model.begin(worker))

    @precondition(lambda self: self.active)
    @rule(number=which, calls=some, place=st.integers(0, 1))
    def go(self, number: int, calls: int, place: int) -> None:
        """One of the workers goes on, while all others stand still."""
        self.go_on(self.active[number % len(self.active)], calls, place)

    @precondition(lambda self: self.active)
    @rule(
        number=which,
        calls=st.integers(0, 8),
        race=st.lists(st.tuples(st.sampled_from(RACE), which), max_size=16),
    )
    def take_over(self, number: int, calls: int, race: list[tuple[str, int]]) -> None:
        """Another worker comes for the job of one that stands still, and then they race.

        The other rules can do it too, but seldom in this order.
        """
        self.leases_run_out()
        self.begin(number)
        self.go_on(self.workers[self.latest], calls, 0)
        for what, who in race:
            if what == "wipe":
                self.wipe_redis()
            elif self.active and what == "renew":
                self.renew(who)
            elif self.active:
                worker = self.active[who % len(self.active)]
                calling = [gate.call for gate in self.model.waiting(worker)]
                chunk = [at for at, call in enumerate(calling) if call in CHUNK_CALLS]
                self.go_on(worker, 1, chunk[0] if what == "chunk" and chunk else 0)

    @precondition(lambda self: self.active)
    @rule(number=which)
    def renew(self, number: int) -> None:
        self.do(self.model.renew(self.active[number % len(self.active)]))

    @rule()
    def leases_run_out(self) -> None:
        self.do(self.model.jobs.lapse())

    @precondition(lambda self: self.active)
    @rule(number=which)
    def kill(self, number: int) -> None:
        worker = self.active[number % len(self.active)]
        self.do(self.model.bury(worker))
        self.workers[self.workers.index(worker)] = self.model.worker()

    @precondition(lambda self: self.active)
    @rule(number=which)
    def stop(self, number: int) -> None:
        """SIGTERM: the run is handed over after the step."""
        self.active[number % len(self.active)].stopping.set()

    @rule()
    def wipe_redis(self) -> None:
        if self.model.wipes < WIPES_MAX:
            self.do(self.model.wipe())

    @rule()
    def reconcile(self) -> None:
        self.do(self.model.reconcile())

    @invariant()
    def holds(self) -> None:
        self.do(self.model.check())

    def teardown(self) -> None:
        try:
            if not self.is_broken:
                self.do(self.model.settle())
        finally:
            self.runner.run(self.model.close())
            self.runner.close()


async def _made(made: Callable[[], RunModel]) -> RunModel:
    return made()


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    # By the function: loggers remember what was disabled, and it makes them forget.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(autouse=True)
def no_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "FENCE_SECONDS_MAX", FOR_EVER)
    monkeypatch.setattr(chunk_writer, "CLOSE_SECONDS_MAX", FOR_EVER)


def play(made: Callable[[], RunModel], *, examples: int, rules: int = 15) -> None:
    run_state_machine_as_test(
        lambda: RunMachine(made),
        settings=settings(
            max_examples=examples,
            stateful_step_count=rules,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def in_memory() -> RunModel:
    return RunModel(MemoryLeases(), MemoryStore())


def test_invariants_1_2_3_hold_in_every_order_of_what_workers_do() -> None:
    play(in_memory, examples=100)


def on_redis(kind: str, url: str) -> Callable[[], RunModel]:
    """The same model on the real scripts."""

    def made() -> RunModel:
        redis: Any = fakeredis.FakeAsyncRedis() if kind == "fakeredis" else PipelinedRedis(url)
        model = RunModel(RedisLeases(redis), RedisStore(redis, RedisPubSub(redis)))
        model.at_the_end += [redis.flushall, redis.aclose]
        return model

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_invariants_1_2_3_hold_in_every_order_on_the_real_scripts(
    kind: str, redis_url: str
) -> None:
    play(on_redis(kind, redis_url), examples=40)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_invariants_1_2_3_hold_in_very_many_orders() -> None:
    play(in_memory, examples=3000)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_invariants_1_2_3_hold_in_many_orders_on_the_real_scripts(
    kind: str, redis_url: str
) -> None:
    play(on_redis(kind, redis_url), examples=300)


# ------------------------------------------------------------------------------ planted faults


class NoFenceNeeded(MemoryStore):
    """As it was once: a stream that is not there takes anybody's frames."""

    def _fenced(self, run_id: RunId, fence: Fence) -> Any:
        return self._not_stale(run_id, fence)


async def _without_a_look(self: ChunkWriter) -> None:
    self.fence = await self._chunks.raise_attempt(self._run_id, self._attempt)
    self._restart = True


async def _only_reload(self: HeldRun) -> None:
    await self.reload()


async def _no_fence_yet(*_: Any) -> None:
    return None


def _nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None], Callable[[], RunModel]]] = {
    "a renewal does not ask whose the job is": (
        "got back a lease",
        _nothing,
        lambda: RunModel(MemoryLeases(blind="renew"), MemoryStore()),
    ),
    "a finish does not ask whose the job is": (
        "nobody had taken the job|got back a lease",
        _nothing,
        lambda: RunModel(MemoryLeases(blind="finish"), MemoryStore()),
    ),
    "chunks are taken without a fence": (
        "wrote chunks after",
        _nothing,
        lambda: RunModel(MemoryLeases(), NoFenceNeeded()),
    ),
    "a fence is good without a look into the log": (
        "wrote chunks after",
        lambda patch: patch.setattr(ChunkWriter, "_put_up_fence", _without_a_look),
        in_memory,
    ),
    "a takeover puts up its fence after resumed": (
        "wrote chunks after",
        lambda patch: patch.setattr(takeover, "_raised", _no_fence_yet),
        in_memory,
    ),
    "an append does not ask for the attempt": (
        "appended|in Redis",
        lambda patch: (
            patch.setattr(run, "_fence", lambda state, _: run._live(state)),
            patch.setattr(HeldRun, "catch_up", _only_reload),
        )[0],
        in_memory,
    ),
    "a started call is run again": (
        "ran twice",
        lambda patch: patch.setattr(Tools, "is_repeatable", lambda *_: True),
        in_memory,
    ),
    "nobody sends again what Redis has lost": (
        "the run was lost",
        _nothing,
        lambda: RunModel(MemoryLeases(), MemoryStore(), reconciles=False),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_model_finds_a_planted_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence, plant, made = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises(Broken, match=sentence):
        play(made, examples=FAULT_EXAMPLES_MAX)


def _without(script: LuaScript, line: str, instead: str) -> LuaScript:
    changed = copy.copy(script)
    assert line in script.text
    changed.text = script.text.replace(line, instead)
    changed.sha = hashlib.sha1(changed.text.encode(), usedforsecurity=False).hexdigest()
    return changed


@pytest.mark.parametrize(
    "fault",
    [
        (
            redis_chunks,
            "_WRITE",
            "if state[2] ~= ARGV[2] then return -2 end",
            "",
            "wrote chunks after",
        ),
        (
            leased_jobs,
            "RENEW",
            "elseif owner == consumer then",
            "elseif owner then",
            "got back a lease",
        ),
    ],
    ids=["a write without its fence", "a renewal by whomever"],
)
def test_the_model_finds_a_fault_planted_in_a_script(
    fault: tuple[Any, str, str, str, str], monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    place, name, line, instead, sentence = fault
    monkeypatch.setattr(place, name, _without(getattr(place, name), line, instead))
    with pytest.raises(Broken, match=sentence):
        play(on_redis("valkey", redis_url), examples=FAULT_EXAMPLES_MAX)
