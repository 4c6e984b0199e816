"""PostgreSQL or Redis go away, or forget everything, while runs wait and work."""

import pytest
import redis

from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection
from tests.support.rest import ECHO, SPEAK, SPEECH, Rest, bash, parts_of, tag_of
from tests.support.run_story import check_story
from tests.support.stacks import BreakableStack
from tests.support.views import are_caught_up
from tests.support.waiting import until

pytestmark = pytest.mark.crash


@pytest.mark.settings(sandbox="none")
async def test_without_redis_a_run_is_accepted_and_completes_when_redis_is_back(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    broken.valkey.stop(at_once=True)

    run = await client.start("nobody hears this yet")
    assert await client.status(run) == "queued"
    async with client.watching(run) as watch:
        broken.valkey.start()
        await check_story(client, run, watch)

    assert await client.status(run) == "completed"


@pytest.mark.settings(sandbox="none")
async def test_a_run_goes_on_while_redis_is_away(broken: BreakableStack, client: Rest) -> None:
    """Its readers follow the log for as long."""
    broken.start_worker()
    run = await client.play(*[SPEAK | {"tools": [{"name": "nothing"}]}] * 2, {"text": "done"})
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        broken.valkey.stop(at_once=True)
        await client.reached(run, "completed")
        live = await watch.finished()
        broken.valkey.start()

        await check_story(client, run, watch)

    assert live == watch.chunks
    assert "resumed" not in await client.tags(run)


@pytest.mark.settings(worker_slots="2")
async def test_a_redis_that_forgets_everything_costs_no_waiting_and_no_working_run(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    step = bash("echo . >> steps; cat steps", text=SPEECH) | {"delta_ms": 20}
    runs = [await client.play(step, step, {"text": "done"}) for _ in range(6)]
    async with client.watching(runs[0]) as first, client.watching(runs[1]) as second:
        await first.says("word5 ")
        await second.says("word5 ")
        with redis.Redis.from_url(broken.details["redisUrl"]) as server:
            server.flushall()

        await check_story(client, runs[0], first)
        await check_story(client, runs[1], second)
    for run in runs:
        async with client.watching(run, start_index=0) as watch:
            await check_story(client, run, watch)
        calls = parts_of((await client.messages(run))[-1], "tool-bash")
        assert [call["output"]["stdout"] for call in calls] == [".\n", ".\n.\n"]
        assert await client.status(run) == "completed"


@pytest.mark.settings(sandbox="none")
async def test_without_postgresql_every_route_says_503_and_when_to_try_again(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    run = await client.play(SPEAK)
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        broken.postgres.stop(at_once=True)

        here = f"/api/chat/runs/{run.run_id}"
        for method, path, body in (
            ("POST", "/api/chat/runs", {"prompt": "x", "model": ECHO}),
            ("GET", here, None),
            ("GET", f"{here}/events", None),
            ("GET", f"{here}/stream?startIndex=0", None),
            ("GET", f"/api/chat/{run.chat_id}/stream", None),
            ("GET", f"/api/chats/{run.chat_id}/messages", None),
            ("POST", f"{here}/cancel", None),
            ("GET", "/readyz", None),
        ):
            answer = await client.http.request(method, path, json=body)
            assert answer.status_code == 503, (method, path)
            assert int(answer.headers["retry-after"]) >= 1, (method, path)
            if path != "/readyz":
                assert answer.json()["code"] == "unavailable", (method, path)
        assert (await client.http.get("/healthz")).status_code == 200

        broken.postgres.start()
        reader = await check_story(client, run, watch)

    assert [part["text"] for part in parts_of(reader.message, "text")] == [SPEECH]
    assert [tag_of(event) for event in await client.history(run)].count("message_persisted") == 1
    after = await client.start("and the next one works")
    await client.ended(after)


@pytest.mark.settings(sandbox="none")
async def test_both_servers_die_at_once_and_every_accepted_run_completes(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    speaking = await client.play(SPEAK)
    await client.reached(speaking, "started")
    waiting = [await client.start(f"number {number}") for number in range(5)]

    broken.valkey.stop(at_once=True)
    broken.postgres.stop(at_once=True)
    broken.postgres.start()
    broken.valkey.start()

    for run in (speaking, *waiting):
        async with client.watching(run, start_index=0) as watch:
            await check_story(client, run, watch)
        assert await client.status(run) == "completed"


async def test_a_result_that_comes_while_postgresql_is_away_is_kept_and_not_made_again(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    wait_for_go = (
        "echo done >> effects; until [ -e go ]; do sleep 0.02; done; echo went; touch gone"
    )
    run = await client.play(bash(wait_for_go), bash("cat effects"), {"text": "done"})
    workspace = broken.workspace_of(run.session_id)
    async with client.watching(run) as watch:
        await until((workspace / "effects").exists)
        broken.postgres.stop(at_once=True)
        (workspace / "go").touch()
        await until((workspace / "gone").exists)
        broken.postgres.start()

        reader = await check_story(client, run, watch)

    went, counted = parts_of(reader.message, "tool-bash")
    assert went["output"]["stdout"] == "went\n"
    assert counted["output"]["stdout"] == "done\n"
    assert "resumed" not in await client.tags(run)


@pytest.mark.settings(sandbox="none")
async def test_the_views_catch_up_after_postgresql_was_away(
    broken: BreakableStack, client: Rest
) -> None:
    broken.start_worker()
    broken.postgres.stop(at_once=True)
    broken.postgres.start()

    async def accepts() -> bool:
        return (await client.http.get("/readyz")).status_code == 200

    await until(accepts)
    run = await client.start("after the break")
    await client.ended(run)

    reader = ReconnectingConnection(Secret(broken.details["databaseUrl"]), name="reader")
    await until(lambda: are_caught_up(reader), timeout_seconds=30)
    await reader.close()
