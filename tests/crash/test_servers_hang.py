"""Servers that neither answer nor refuse: every call has a deadline, and nothing is lost."""

import pytest

from tests.support.redis_weather import frozen
from tests.support.rest import ECHO, SPEAK, SPEECH, Rest, parts_of
from tests.support.run_story import check_story
from tests.support.stacks import BreakableStack

pytestmark = [pytest.mark.crash, pytest.mark.settings(sandbox="none")]


async def test_a_redis_that_hangs_keeps_nobody_from_starting_and_reading_runs(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    before = await client.start("before")
    await client.ended(before)
    speaking = await client.play(SPEAK)
    async with client.watching(speaking) as watch:
        await watch.says("word5 ")
        with frozen(broken.valkey.child):
            run = await client.start("while Redis hangs")
            assert await client.status(run) == "queued"
            assert (await client.messages(before))[-1]["role"] == "assistant"
            assert await client.replay(before)
            await client.reached(speaking, "completed")
        await check_story(client, speaking, watch)
    async with client.watching(run, start_index=0) as watch:
        await check_story(client, run, watch)
    assert "resumed" not in await client.tags(speaking)


async def test_a_postgresql_that_hangs_is_answered_with_503_within_a_deadline(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    run = await client.play(SPEAK)
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        with frozen(broken.postgres.child):
            answer = await client.http.post("/api/chat/runs", json={"prompt": "x", "model": ECHO})
            assert answer.status_code == 503
            answer = await client.http.get(f"/api/chat/runs/{run.run_id}")
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert (await client.http.get("/readyz")).status_code == 503
            assert (await client.http.get("/healthz")).status_code == 200
        reader = await check_story(client, run, watch)
    assert [part["text"] for part in parts_of(reader.message, "text")] == [SPEECH]
