"""What the workers give up on is never lost: a letter says so, whoever dies where."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from typing_extensions import override

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.dead_letters_port import Burial, DeadLetter
from runs_domain.errors import QueueUnavailable, SandboxUnavailable, StoreUnavailable, UnknownEvent
from runs_domain.handle import handle
from runs_domain.ids import Attempt, RunId
from runs_domain.plan import TRIES_MAX, WORKER_LOST
from runs_domain.ports import Append, Job, Recorded
from runs_domain.storage.memory_dead_letters import MemoryDeadLetters
from runs_domain.storage.memory_jobs import MemoryJobs
from tests.support.builders import ACCOUNT, RUN
from tests.support.driving import World
from workers.burials import BROKEN_TRIES_MAX, LOST_TAKES_MAX, Burials
from workers.delivery import Delivery
from workers.reconciler import RESEND_GRACE_SECONDS, Reconciler

LETTER = (RUN, "tries_exhausted")
CANARY = "canary text of an error"
JOB = Job(kind="run", id=str(RUN), account_id=str(ACCOUNT))


class Killed(BaseException):
    """The worker's process ends here: nothing of it runs on."""


async def on_its_last_try(world: World) -> None:
    """The next worker that is lost was one too many."""
    await world.request()
    for number in range(TRIES_MAX - 1):
        resume = c.ResumeRun(attempt=Attempt(number + 2), reason="lost")
        await handle(world.log, RUN, resume, world.context("worker:gone"))


def letter_of(world: World) -> DeadLetter:
    return world.letters.letters[RUN, "tries_exhausted"]


async def failure_of(world: World) -> e.Failed:
    ending = (await world.state()).ending
    assert isinstance(ending, e.Failed)
    return ending


# ------------------------------------------------------------------------------ tries_exhausted


async def test_a_dead_runs_letter_says_why_and_how_often_and_the_client_is_told_less() -> None:
    world = World()
    await on_its_last_try(world)

    await world.drive("resent", last_error="KeyError at takeover.py:12 in take")

    letter = letter_of(world)
    assert (letter.account_id, letter.tries) == (ACCOUNT, TRIES_MAX)
    assert letter.last_error == "KeyError at takeover.py:12 in take"
    failed = await failure_of(world)
    assert failed.code == "tries_exhausted"
    assert failed.sentence == "Given up after 5 tries; the last one ended with: KeyError"
    assert world.burials.counters.tries_exhausted == 1


async def test_of_a_worker_that_just_died_nobody_knows_more_than_that() -> None:
    world = World()
    await on_its_last_try(world)

    await world.drive(redelivered=True)

    assert letter_of(world).last_error == WORKER_LOST
    assert (await failure_of(world)).sentence.endswith(
        "5 tries; the last one ended with: worker lost"
    )


async def test_who_buries_what_another_worker_failed_takes_the_reason_from_the_log() -> None:
    world = World()
    await on_its_last_try(world)
    with pytest.raises(Killed):
        await with_death(world, "bury.before").drive("resent", last_error="KeyError at a.py:1 in b")

    await world.drive(redelivered=True)

    assert letter_of(world).last_error == "KeyError"


@pytest.mark.parametrize("end", ["completed", "cancelled"])
async def test_a_run_that_ended_otherwise_gets_no_letter(end: str) -> None:
    world = World()
    await world.request()
    if end == "cancelled":
        cancel = c.RequestCancel(by="x", why="y")
        await handle(world.log, RUN, cancel, world.context("api"))

    await world.drive()

    assert (await world.tags())[-1] == "sandbox_released"
    assert end in await world.tags()
    assert world.letters.letters == {}


DEATHS = (
    "append.resumed.before",
    "append.resumed.after",
    "append.failed.before",
    "append.failed.after",
    "bury.before",
    "bury.after",
    "release.before",
    "release.after",
    "append.sandbox_released.before",
    "append.sandbox_released.after",
)


def with_death(world: World, place: str) -> World:
    """The next worker dies there; then the world is as before."""
    *what, when = place.split(".")

    def dying(name: str, owner: Any, method: str, meant: Callable[..., bool]) -> None:
        real = getattr(owner, method)

        async def call(*args: Any, **more: Any) -> Any:
            if not meant(*args):
                return await real(*args, **more)
            setattr(owner, method, real)
            if when == "before":
                raise Killed(name)
            await real(*args, **more)
            raise Killed(name)

        setattr(owner, method, call)

    match what:
        case ["append", event]:

            def is_it(append: Append) -> bool:
                kind = {
                    "resumed": e.Resumed,
                    "failed": e.Failed,
                    "sandbox_released": e.SandboxReleased,
                }[event]
                return any(isinstance(one, kind) for one in append.events)

            dying(place, world.log, "append", is_it)
        case ["bury"]:
            dying(place, world.letters, "bury", lambda _: True)
        case _:
            dying(place, world.sandboxes, "find", lambda _: True)
    return world


def letter_before_release(world: World) -> None:
    """From now on a release of a dead run without its letter is an error at once."""
    append = world.log.append

    async def watched(one: Append) -> tuple[Recorded, ...]:
        if any(isinstance(event, e.SandboxReleased) for event in one.events):
            assert LETTER in world.letters.letters
        return await append(one)

    world.log.append = watched  # type: ignore[method-assign]


@pytest.mark.parametrize("place", DEATHS)
async def test_invariant_1_no_death_of_a_worker_leaves_a_dead_run_without_its_letter(
    place: str,
) -> None:
    world = World()
    await on_its_last_try(world)
    letter_before_release(world)

    with pytest.raises(Killed):
        await with_death(world, place).drive(redelivered=True)
    is_open = bool(await world.log.open_heads(limit=1))
    assert is_open or LETTER in world.letters.letters, "somebody comes back"
    await world.drive(redelivered=True)

    tags = await world.tags()
    assert tags.count("failed") == tags.count("sandbox_released") == 1
    assert (letter_of(world).tries, letter_of(world).last_error) in {
        (TRIES_MAX, WORKER_LOST),
        (TRIES_MAX + 1, WORKER_LOST),
    }
    assert await world.log.open_heads(limit=1) == ()


async def test_while_postgresql_takes_no_letter_the_run_is_not_released() -> None:
    class Away(MemoryDeadLetters):
        away = True

        @override
        async def bury(self, burial: Burial) -> bool:
            if self.away:
                raise StoreUnavailable("PostgreSQL is away")
            return await super().bury(burial)

    world = World()
    world.letters = letters = Away(world.log, world.clock)
    world.burials = Burials(letters)
    await on_its_last_try(world)

    with pytest.raises(StoreUnavailable):
        await world.drive(redelivered=True)
    with pytest.raises(StoreUnavailable):
        await world.drive("handover")
    assert (await world.tags())[-1] == "failed"

    letters.away = False
    await world.drive("handover")
    assert (await world.tags())[-1] == "sandbox_released"
    assert letter_of(world).last_error == WORKER_LOST


# ------------------------------------------------------------------------------ broken


def delivery(retries: int) -> Delivery:
    return Delivery("resent", False, retries, asyncio.Event())


async def unreadable(_run_id: RunId, **_: Any) -> tuple[Recorded, ...]:
    raise UnknownEvent(CANARY)


def job_function(world: World) -> Callable[[dict[Any, Any], Job, Delivery], Awaitable[bool]]:
    async def run(_ctx: dict[Any, Any], job: Job, given: Delivery) -> bool:
        return await world.driver().drive(job, redelivered=False, stopping=given.stopping)

    return world.burials.guarded(run)


async def test_a_run_whose_history_cannot_be_read_is_buried_and_sent_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    await world.request()
    run, read = job_function(world), world.log.read
    world.log.read = unreadable  # type: ignore[method-assign]

    for retries in range(BROKEN_TRIES_MAX - 1):
        with pytest.raises(UnknownEvent):
            await run({}, JOB, delivery(retries))
        assert world.letters.letters == {}
    assert await run({}, JOB, delivery(BROKEN_TRIES_MAX - 1)) is True

    letter = world.letters.letters[RUN, "broken"]
    assert letter.last_error.startswith("UnknownEvent at test_burials.py:")
    assert (letter.tries, letter.withheld) == (BROKEN_TRIES_MAX, True)
    assert world.burials.counters.broken == 1
    assert len([one for one in caplog.records if "is buried" in one.message]) == 1
    assert CANARY not in caplog.text
    await world.clock.sleep(RESEND_GRACE_SECONDS)
    jobs = MemoryJobs()
    await Reconciler(world.log, jobs).tick()
    assert jobs.waiting == {}

    world.log.read = read  # type: ignore[method-assign]
    assert (await world.tags()) == ["requested"], "the run is as it was"


@pytest.mark.parametrize("weather", [StoreUnavailable, QueueUnavailable, SandboxUnavailable])
@pytest.mark.parametrize("retries", [0, BROKEN_TRIES_MAX, 10 * BROKEN_TRIES_MAX])
async def test_a_server_that_is_away_buries_nothing(weather: type[Exception], retries: int) -> None:
    world = World()
    await world.request()

    async def run(_ctx: dict[Any, Any], _job: Job, _delivery: Delivery) -> bool:
        raise weather(CANARY)

    with pytest.raises(weather):
        await world.burials.guarded(run)({}, JOB, delivery(retries))

    assert world.letters.letters == {}


@pytest.mark.parametrize("times_taken", [1, LOST_TAKES_MAX, LOST_TAKES_MAX + 1])
async def test_a_job_that_kills_each_worker_before_it_is_counted_is_buried_unbegun(
    times_taken: int,
) -> None:
    world = World()
    await world.request()
    begun: list[Job] = []

    async def run(_ctx: dict[Any, Any], job: Job, _delivery: Delivery) -> bool:
        begun.append(job)
        return True

    given = Delivery("fresh", True, 0, asyncio.Event(), times_taken=times_taken)
    assert await world.burials.guarded(run)({}, JOB, given) is True

    is_buried = times_taken > LOST_TAKES_MAX
    assert bool(begun) is not is_buried
    if is_buried:
        letter = world.letters.letters[RUN, "broken"]
        assert (letter.last_error, letter.tries) == (WORKER_LOST, LOST_TAKES_MAX)


async def test_a_withheld_job_that_was_sent_all_the_same_ends_at_its_first_break() -> None:
    """A reconciler may have looked before the letter was written."""
    world = World()
    await world.request()
    await world.letters.bury(
        Burial(kind="run", id=RUN, reason="broken", last_error="UnknownEvent", tries=15)
    )
    run = job_function(world)
    world.log.read = unreadable  # type: ignore[method-assign]

    assert await run({}, JOB, delivery(0)) is True
    assert world.burials.counters.broken == 0


async def test_a_withheld_job_that_does_not_break_any_more_does_its_work() -> None:
    world = World()
    await world.request()
    await world.letters.bury(
        Burial(kind="run", id=RUN, reason="broken", last_error="UnknownEvent", tries=15)
    )

    assert await job_function(world)({}, JOB, delivery(0)) is True
    assert (await world.tags())[-1] == "sandbox_released"


def test_a_run_that_can_count_its_tries_ends_by_its_own_stream_first() -> None:
    assert TRIES_MAX < LOST_TAKES_MAX < BROKEN_TRIES_MAX
