"""Redis is away, full, read-only, empty or silent under a whole stack: it costs waiting, never a
run, and no live run notices."""

import signal
import time
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.redis_weather import frozen, full, read_only, replace_by_an_empty_one
from tests.support.rest import SPEECH, Rest, Run
from tests.support.run_story import check_story
from tests.support.stacks import BreakableStack
from tests.support.waiting import until
from workers.stack.processes import Process

pytestmark = [pytest.mark.crash, pytest.mark.settings(sandbox="none", lease_seconds="1")]

STOP_SECONDS = 15.0
"""Less than a supervisor waits before it kills."""
STEPS = 3


def calls(seconds: float) -> list[dict[str, Any]]:
    """Model calls that speak for so long together."""
    words = len(SPEECH.split())
    step = {"text": SPEECH, "delta_ms": int(seconds * 1000 / STEPS / words)}
    return [step | {"tools": [{"name": "nothing"}]}] * (STEPS - 1) + [step]


@pytest.fixture
def two_workers(broken: BreakableStack) -> tuple[Process, Process]:
    """One drives the run; the other would take it over, if it could."""
    return broken.start_worker(), broken.start_worker()


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(3, id="3-s"),
        pytest.param(60, id="60-s", marks=[pytest.mark.long, pytest.mark.timeout(200)]),
    ],
)
async def test_a_redis_that_is_down(
    broken: BreakableStack, client: Rest, two_workers: tuple[Process, Process], seconds: int
) -> None:
    live = await _speaking(client, seconds + 3)
    ending = await _speaking(client, 2)
    broken.valkey.stop(at_once=True)
    waiting = await client.start("while Redis is down")
    await _for(seconds)
    await client.reached(ending, "completed")
    assert await client.status(waiting) == "queued"
    broken.valkey.start()

    await _complete(client, live, ending)
    await _complete(client, waiting, resent=True)
    assert [worker.child.exit_code for worker in two_workers] == [None, None]


async def test_a_redis_that_is_replaced_by_an_empty_one(
    broken: BreakableStack, client: Rest, two_workers: tuple[Process, Process]
) -> None:
    live = await _speaking(client, 4)
    replace_by_an_empty_one(broken.valkey)
    waiting = await client.start("to the new one")

    await _complete(client, live)
    await _complete(client, waiting, resent=True)
    assert [worker.child.exit_code for worker in two_workers] == [None, None]


@pytest.mark.parametrize("weather", [full, read_only])
async def test_a_redis_that_refuses_all_writes(
    broken: BreakableStack,
    client: Rest,
    two_workers: tuple[Process, Process],
    weather: Any,
) -> None:
    """A live run ends on the log alone, and so do its readers; one that is posted meanwhile
    begins when it is over."""
    live = await _speaking(client, 3)
    outlasting = await _speaking(client, 8)
    async with client.watching(live) as watch:
        with weather(broken.details["redisUrl"]):
            waiting = await client.start("while Redis refuses")
            await check_story(client, live, watch)
            assert await client.status(waiting) == "queued"

    await _complete(client, live, outlasting)
    await _complete(client, waiting, resent=True)
    assert [worker.child.exit_code for worker in two_workers] == [None, None]


@pytest.mark.settings(sandbox="none", lease_seconds="1", worker_slots="1")
async def test_runs_that_wait_in_a_redis_that_is_full_are_begun_all_the_same(
    broken: BreakableStack, client: Rest
) -> None:
    """Taking and finishing jobs needs no memory; only sending does."""
    broken.start_worker()
    live = await _speaking(client, 2)
    queued = [await client.start(f"number {number}") for number in range(3)]
    with full(broken.details["redisUrl"]):
        await client.reached(live, "completed")
        for run in queued:
            await client.reached(run, "completed")

    await _complete(client, live, *queued)


async def test_a_redis_that_hangs_for_several_leases(
    broken: BreakableStack, client: Rest, two_workers: tuple[Process, Process]
) -> None:
    """When it wakes, every lease looks as if it had run out: nobody could renew meanwhile."""
    live = [await _speaking(client, 6) for _ in range(4)]
    with frozen(broken.valkey.child):
        await _for(3)

    await _complete(client, *live)
    assert [worker.child.exit_code for worker in two_workers] == [None, None]


async def test_all_processes_stop_in_time_and_well_while_redis_hangs(
    broken: BreakableStack, client: Rest
) -> None:
    worker = broken.start_worker()
    run = await _speaking(client, 6)
    processes = [worker, broken.api, broken._processes["projector"]]
    with ExitStack() as stopped:
        stopped.enter_context(frozen(broken.valkey.child))
        async with client.watching(run) as watch:
            await watch.says("word5 ")
            for process in processes:
                process.child.kill(signal.SIGTERM)
            for process in processes:
                assert process.child.wait(STOP_SECONDS), f"{process.name} hangs"
    assert [process.child.exit_code for process in processes] == [0] * len(processes)


# ------------------------------------------------------------------------------ helpers


async def _speaking(client: Rest, seconds: float) -> Run:
    """A run that is in its first step."""
    run = await client.play(*calls(seconds))
    await client.reached(run, "started")
    return run


async def _complete(client: Rest, *runs: Run, resent: bool = False) -> None:
    """Their stories are whole. Nobody lost the run but, if `resent`, the one job that was sent."""
    for run in runs:
        async with client.watching(run, start_index=0) as watch:
            await check_story(client, run, watch)
        assert await client.status(run) == "completed"
        resumed = (await client.tags(run)).count("resumed")
        assert resumed <= int(resent), "a worker that lived lost its run"


async def _for(seconds: float) -> None:
    """How long the weather lasts."""
    end = time.monotonic() + seconds
    await until(lambda: time.monotonic() > end, timeout_seconds=seconds + 10)
