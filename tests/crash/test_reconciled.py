"""Runs that only the reconciler can know of."""

import pytest

from tests.support.rest import SPEAK, Rest
from tests.support.run_story import check_story
from tests.support.stacks import BreakableStack, kill

pytestmark = [pytest.mark.crash, pytest.mark.settings(sandbox="none", lease_seconds="1")]


async def test_a_queued_run_that_is_cancelled_while_redis_is_away_is_closed_when_it_is_back(
    broken: BreakableStack, client: Rest
) -> None:
    """Ended by the API, with a job that was never sent: nothing was made, all the same it is said
    that all was given back.
    """
    broken.start_worker()
    broken.valkey.stop(at_once=True)
    run = await client.start("never begun")
    assert (await client.cancel(run)).status_code == 202
    assert await client.tags(run) == ["requested", "cancel_requested", "cancelled"]

    broken.valkey.start()
    async with client.watching(run) as watch:
        await client.ended(run)
        await check_story(client, run, watch)

    assert (await client.tags(run))[3:] == ["sandbox_released"]


async def test_invariant_1_a_run_whose_worker_redis_and_api_are_lost_together_completes(
    broken: BreakableStack, client: Rest
) -> None:
    worker = broken.start_worker()
    run = await client.play(SPEAK)
    await client.reached(run, "started")
    kill(worker)
    kill(broken.api)
    broken.valkey.stop(at_once=True)

    broken.valkey.start()
    broken.api.start()
    broken.api.wait_until_ready()
    broken.start_worker()

    await client.ended(run)
    assert await client.status(run) == "completed"
