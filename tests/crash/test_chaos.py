"""Hundreds of runs while everything around them dies, sleeps, forgets and loses its connections.

`pytest tests/crash/test_chaos.py --long --chaos-runs 800 --chaos-seed 7`. Without a seed a random
one is taken, which the table at the end names. See `chaos_plan` for what a seed fixes.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runs_api.reader import FRAMES_LOST
from runs_domain.frames import Error, decode
from runs_domain.stream_reader import StreamReader
from tests.support.chaos_blows import Blows
from tests.support.chaos_clients import Accepted, Clients, keep_effects
from tests.support.chaos_plan import blows, errands
from tests.support.chaos_report import (
    Aftermath,
    check_invariants,
    counted,
    doubled_effects,
    errors_in,
    table,
)
from tests.support.nursery import nursery
from tests.support.rest import Rest
from tests.support.run_story import first_difference
from tests.support.stacks import LinkedStack, linked_stack
from tests.support.waiting import until

RUNS_IN_CI = 25
PACE_IN_CI = 2.0
"""So few runs would be over before much happened to them."""
FIXED_SEED = 3
REST_SECONDS = 90.0
READERS = 8
LOST_WORKERS_SHARE_MAX = 0.03
"""Of runs that may end because five workers were lost with them: it is legal, and rare."""
SETTINGS = {"lease_seconds": "1", "worker_slots": "24", "tool_timeout_seconds": "20"}

pytestmark = [pytest.mark.crash]


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """It goes on until the block ends; what breaks in it breaks the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        yield
        task.cancel()


@pytest.fixture
def chaotic(prepared: Path, request: pytest.FixtureRequest) -> Iterator[LinkedStack]:
    with linked_stack(prepared, SETTINGS | getattr(request, "param", {})) as stack:
        yield stack


@dataclass(frozen=True)
class Chaos:
    runs: int
    seed: int
    pace: float = 1.0


async def chaos(stack: LinkedStack, kept: Path, asked: Chaos, show: Callable[[str], None]) -> None:
    count, seed = asked.runs, asked.seed
    began = time.monotonic()
    aftermath = Aftermath(stack)
    async with (
        nursery() as forking,
        Rest(stack.details["baseUrl"], stack.details["apiKey"]) as rest,
    ):
        struck, clients = Blows(stack, forking), Clients(rest, seed)
        try:
            await struck.start_workers()
            async with beside(keep_effects(stack.sandboxes, kept)):
                async with beside(struck.rain(blows(seed, pace=asked.pace))):
                    await clients.run_errands(errands(seed, count))
                await struck.heal()
                await until(aftermath.is_at_rest, timeout_seconds=REST_SECONDS)
            seconds = time.monotonic() - began
            lines = await check_stories(rest, clients.accepted, kept)
            check_invariants(stack)
            await struck.check_exits()
            assert aftermath.runs() == {one.run.run_id for one in clients.accepted}
            assert len(clients.accepted) == count
            failed = aftermath.failed()
            assert set(failed) <= {"tries_exhausted"}
            assert failed["tries_exhausted"] <= max(1, count * LOST_WORKERS_SHARE_MAX)
        except BaseException as error:
            plan = "\n".join(map(str, struck.struck))
            error.add_note(f"chaos of {count} runs, seed {seed}; the blows were\n{plan}")
            error.add_note("errors in the logs:\n" + "\n".join(errors_in(stack.logs)))
            raise
        show(
            table(
                f"chaos of {count} runs, seed {seed}: none lost, none doubled",
                {
                    "runs": counted(aftermath.statuses()),
                    "failed": counted(failed),
                    "resumed": counted(aftermath.resumed()),
                    "blows": f"{len(struck.struck)}: {counted(struck.counts)}",
                    "effects seen": lines,
                    "requests sent again": clients.asked_again,
                    "seconds to rest": f"{seconds:.0f}",
                },
            )
        )


async def check_stories(rest: Rest, accepted: list[Accepted], kept: Path) -> int:
    """Every run's stream, told again, is legal to its `finish`, and tells what its message and
    its live readers say; no command left its line twice. How many lines were seen.
    """
    lines = 0
    waiting = iter(accepted)

    async def one_reader() -> None:
        nonlocal lines
        for one in waiting:
            told = await rest.replay(one.run)
            reader = StreamReader().read(map(decode, told))
            assert reader.finished, one
            assert reader.message == (await rest.messages(one.run))[-1], one
            if one.watch is not None and Error(FRAMES_LOST) not in one.watch.frames:
                assert first_difference(one.watch.chunks, told) is None, one
            if one.errand.effects:
                seen, wrong = await doubled_effects(rest, one, kept)
                assert not wrong, (one, wrong)
                lines += seen

    async with asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(one_reader())
    return lines


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("chaotic", "seed"),
    [({}, FIXED_SEED), ({}, None), ({"sandbox": "none"}, None)],
    ids=["fixed seed", "random seed", "no sandboxes"],
    indirect=["chaotic"],
)
async def test_invariants_1_to_8_hold_in_a_small_chaos(
    chaotic: LinkedStack, tmp_path: Path, seed: int | None, show: Callable[[str], None]
) -> None:
    asked = Chaos(RUNS_IN_CI, a_seed() if seed is None else seed, PACE_IN_CI)
    await chaos(chaotic, tmp_path, asked, show)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_invariants_1_to_8_hold_in_chaos(
    chaotic: LinkedStack,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    show: Callable[[str], None],
) -> None:
    count, seed = request.config.getoption("--chaos-runs"), request.config.getoption("--chaos-seed")
    await chaos(chaotic, tmp_path, Chaos(count, a_seed() if seed is None else seed), show)


def a_seed() -> int:
    return secrets.randbelow(1_000_000)
