"""Invariant 3: a worker that sleeps past its lease is not heard when it wakes."""

import signal

import pytest

from tests.support.rest import SPEAK, SPEECH, Rest, parts_of, tag_of
from tests.support.run_story import check_story
from tests.support.stacks import BreakableStack, kill

pytestmark = pytest.mark.crash


@pytest.mark.settings(sandbox="none", lease_seconds="1")
async def test_invariant_3_a_worker_that_sleeps_past_its_lease_is_not_heard_when_it_wakes(
    broken: BreakableStack, client: Rest
) -> None:
    sleeper = broken.start_worker()
    run = await client.play(SPEAK)
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        sleeper.child.kill(signal.SIGSTOP)
        second = broken.start_worker()
        await check_story(client, run, watch)
        history = await client.history(run)
        assert [tag_of(event) for event in history].count("resumed") == 1

        sleeper.child.kill(signal.SIGCONT)
        kill(second, signal.SIGTERM)
        after = await client.start("for the one that woke up")
        await client.ended(after)

    assert await client.history(run) == history
    assert await client.replay(run) == watch.chunks


@pytest.mark.settings(sandbox="none", lease_seconds="1")
async def test_invariant_3_a_worker_that_wakes_while_the_other_speaks_adds_no_chunk(
    broken: BreakableStack, client: Rest
) -> None:
    sleeper = broken.start_worker()
    run = await client.play(SPEAK | {"delta_ms": 50})
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        sleeper.child.kill(signal.SIGSTOP)
        broken.start_worker()
        await client.reached(run, "resumed")
        said = len(watch.chunks)
        await watch.has(said + 3)
        sleeper.child.kill(signal.SIGCONT)

        reader = await check_story(client, run, watch)

    cut, whole = [part["text"] for part in parts_of(reader.message, "text")]
    assert SPEECH.startswith(cut)
    assert whole == SPEECH
