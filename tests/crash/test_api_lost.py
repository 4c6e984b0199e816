"""The API dies or is told to stop: no accepted run and no reader is lost."""

import signal

import pytest

from runs_api.server import GRACE_SECONDS
from tests.support.rest import SPEAK, Rest
from tests.support.run_story import check_story
from tests.support.stacks import BreakableStack, kill

pytestmark = [pytest.mark.crash, pytest.mark.settings(sandbox="none")]


async def test_invariant_1_killed_right_after_the_202_the_run_completes(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    run = await client.start("accepted")
    kill(broken.api)
    broken.api.start()
    async with client.watching(run) as watch:
        await check_story(client, run, watch)

    assert await client.status(run) == "completed"


async def test_invariant_1_killed_before_the_job_was_sent_the_run_completes(
    broken: BreakableStack, client: Rest
) -> None:
    """Redis is away between the append and the send, so the job is nowhere but in the log."""
    broken.start_worker()
    broken.valkey.stop(at_once=True)
    run = await client.start("accepted")
    kill(broken.api)
    broken.valkey.start()
    broken.api.start()
    async with client.watching(run) as watch:
        await check_story(client, run, watch)

    assert await client.status(run) == "completed"


async def test_told_to_stop_it_lets_its_readers_go_and_they_see_the_rest_elsewhere(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    run = await client.play(SPEAK)
    async with client.watching(run) as first, client.watching(run) as second:
        await first.says("word5 ")
        await second.says("word5 ")
        broken.api.ask_to_stop()
        assert broken.api.child.wait(GRACE_SECONDS), "it waited for its streams"
        assert broken.api.child.exit_code == 0
        broken.api.start()

        await check_story(client, run, first)
        await check_story(client, run, second)

    assert first.connections == second.connections == 2
    assert first.chunks == second.chunks


async def test_invariant_11_readers_that_come_go_and_break_off_do_not_touch_the_run(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    run = await client.play(SPEAK)
    async with client.watching(run) as watch:
        for number in range(5):
            async with client.watching(run) as passer_by:
                await passer_by.has(number + 3)
        kill(broken.api, signal.SIGKILL)
        broken.api.start()
        await check_story(client, run, watch)

    assert await client.status(run) == "completed"
    assert "resumed" not in await client.tags(run)
