"""Workers killed at every border of a run; each time another one takes over.

The borders are those that an undisturbed run comes to, each with its number: none can be missed.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

import httpx
import pytest

from runs_domain.crash_at import POINTS
from runs_domain.ids import AccountId
from runs_domain.storage.identity import run_id_of
from tests.support.lanes import check_logs, sweep
from tests.support.rest import Rest, Run
from tests.support.run_story import check_history
from tests.support.stacks import BreakableStack
from tests.support.sweep import Border, Lane, borders_in
from tests.support.waiting import until

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

HALF_SAID = "chunk.after:17"
"""The model has said the first words of its second call, and the reader may have them."""
TAKEOVER = ("append", "raise", "renew", "take")
"""What a takeover does before the run goes on."""
SOME = 8
"""Of the points that come with each frame and each event of a model, each eighth does; --long
takes all."""


async def undisturbed(lane: Lane) -> list[Border]:
    """The borders of a run that nothing happens to."""
    async with lane.run() as run:
        worker = await lane.worker("record")
        await lane.lives_to_the_end(run, worker)
        await lane.check(run)
    return borders_in(worker.logged())


async def killed_at(lane: Lane, border: Border) -> str:
    """The first worker is killed at the border, the second one goes on."""
    async with lane.run() as run:
        await lane.lives_until_killed(run, await lane.worker(border.setting))
        await lane.lives_to_the_end(run, await lane.worker())
        return await lane.check(run)


async def taken_over(lane: Lane) -> list[Border]:
    """The borders of a takeover, up to where the run goes on as any other."""
    async with lane.run() as run:
        await lane.lives_until_killed(run, await lane.worker(HALF_SAID))
        worker = await lane.worker("record")
        await lane.lives_to_the_end(run, worker)
        await lane.check(run)
    borders = borders_in(worker.logged())
    until_then = [border.setting for border in borders].index("model.before:1")
    return [b for b in borders[:until_then] if b.point.split(".")[0] in TAKEOVER]


async def killed_in_a_takeover(lane: Lane, border: Border) -> str:
    """One worker is killed while the model speaks, the next at the border, a third goes on."""
    async with lane.run() as run:
        await lane.lives_until_killed(run, await lane.worker(HALF_SAID))
        await lane.lives_until_killed(run, await lane.worker(border.setting))
        await lane.lives_to_the_end(run, await lane.worker())
        return await lane.check(run)


async def killed_in_a_hand_over(lane: Lane, border: Border) -> str:
    """A worker that is told to stop ends its step, and is killed where it gives the run back."""
    async with lane.run() as run:
        held = lane.model.held[run.name, 1] = asyncio.Event()
        worker = await lane.worker(border.setting)
        await until(lambda: lane.model.asked[run.name][1], timeout_seconds=30)
        worker.kill(signal.SIGTERM)
        await until(lambda: "stopping on SIGTERM" in worker.logged())
        held.set()
        await lane.lives_until_killed(run, worker)
        await lane.lives_to_the_end(run, await lane.worker())
        return await lane.check(run)


async def test_invariant_1_2_3_4_5_7_a_worker_is_killed_at_any_border_of_a_run(
    lanes: list[Lane], show: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    borders = await undisturbed(lanes[0])
    again = await taken_over(lanes[0])
    given_back = [Border(point, 1, "SIGTERM") for point in ("requeue.before", "requeue.after")]

    reached = {border.point for border in (*borders, *again, *given_back)}
    elsewhere = {"send.before", "bury.before", "bury.after"}
    assert reached == set(POINTS) - elsewhere, "a point that this sweep does not come to"
    if not request.config.getoption("--long"):
        borders = [b for b in borders if b.nth % SOME == 1 or not b.is_counted_finely]
    table = [
        "A run of three model calls and three tool calls, its worker killed at",
        *rows(borders, await sweep(lanes, borders, killed_at)),
        "and taken over in the middle of a model call, the next worker killed at",
        *rows(again, await sweep(lanes, again, killed_in_a_takeover)),
        "and handed over by a worker that was told to stop, and was killed at",
        *rows(given_back, await sweep(lanes, given_back, killed_in_a_hand_over)),
    ]
    show("\n".join(table))
    await check_logs(lanes)


def rows(borders: Sequence[Border], outcomes: Sequence[str]) -> list[str]:
    return [
        f"{border.setting:<19} {border.what:<40} {outcome}"
        for border, outcome in zip(borders, outcomes, strict=True)
    ]


@pytest.mark.settings(crash_at="send.before:1", sandbox="none")
async def test_invariant_1_an_api_killed_between_the_log_and_the_queue_loses_no_run(
    broken: BreakableStack, client: Rest
) -> None:
    key = {"Idempotency-Key": "once"}
    body = {"prompt": "hello"}
    with suppress(httpx.TransportError):  # the answer may have been quicker than the kill
        await client.http.post("/api/chat/runs", json=body, headers=key)
    assert broken.api.child.wait(10.0)
    assert broken.api.child.exit_code == -signal.SIGKILL

    broken.api.start()
    broken.api.wait_until_ready()
    account = AccountId(UUID(broken.details["accountId"]))
    run = Run(str(run_id_of(account, "once")), "", "")
    assert await client.tags(run) == ["requested"]
    broken.start_worker()
    check_history(await client.ended(run))

    again = await client.http.post("/api/chat/runs", json=body, headers=key)
    assert (again.status_code, again.json()["runId"]) == (202, run.run_id)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await client.status(run) == "completed"
