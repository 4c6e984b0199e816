"""Workers killed by the kernel at every `sendto` of a run, from the first of the process on.

What the crash points may have overlooked cannot hide here: whatever leaves a worker does by that
call.
"""

from collections.abc import Callable
from itertools import groupby

import pytest

from tests.support.lanes import check_logs, sweep
from tests.support.sweep import Lane
from tests.support.traced import STRACE, traced_worker

pytestmark = [
    pytest.mark.crash,
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(STRACE is None, reason="needs Debian's strace"),
]

SENDS_MIN = 60
"""A run that sends less is not the one that this is about."""


async def undisturbed(lane: Lane) -> int:
    """How often a worker sends from its start to the end of a run and of its job."""
    async with lane.run() as run:
        async with traced_worker(lane.environment, lane.new_place(), killed_at=None) as worker:
            await lane.comes_to_an_end(run)
            sends = worker.sends
        await lane.note(run)
        await lane.check(run)
    return sends


async def killed_at(lane: Lane, nth: int) -> str:
    """An idle worker sends as well, so that it is killed after the run if not in it."""
    async with lane.run() as run:
        async with traced_worker(lane.environment, lane.new_place(), killed_at=nth) as worker:
            assert await worker.ended() == -9
        await lane.note(run)
        await lane.lives_to_the_end(run, await lane.worker())
        return await lane.check(run)


async def test_invariant_1_2_3_4_5_7_a_worker_is_killed_at_every_send_of_a_run(
    lanes: list[Lane], show: Callable[[str], None]
) -> None:
    sends = await undisturbed(lanes[0])
    assert sends > SENDS_MIN
    numbers = range(1, sends + 1)
    outcomes = zip(numbers, await sweep(lanes, numbers, killed_at), strict=True)
    table = [f"A worker killed by the kernel at its n-th sendto, n from 1 to {sends}"]
    for outcome, same in groupby(outcomes, key=lambda one: one[1]):
        (first, _), *others = same
        last = f"-{others[-1][0]}" if others else ""
        table.append(f"{first}{last}".ljust(9) + outcome)
    show("\n".join(table))
    await check_logs(lanes)
