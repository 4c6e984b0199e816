"""Workers that are killed in the middle of a run."""

import secrets

import pytest
import redis

from runs_domain.frames import Error, Finish
from tests.support.rest import SPEAK, SPEECH, Rest, bash, parts_of, tag_of
from tests.support.run_key import key_is_good
from tests.support.run_story import BEGIN, END, check_history, check_story
from tests.support.sandboxes import processes_naming
from tests.support.stacks import BreakableStack, kill
from tests.support.waiting import until
from workers.agent.tool_step import TOOLS_AT_ONCE_MAX

pytestmark = pytest.mark.crash


async def test_the_only_worker_is_killed_in_the_middle_of_a_tool_call(
    broken: BreakableStack, client: Rest
) -> None:
    token = f"token-{secrets.token_hex(8)}"
    first = broken.start_worker()
    run = await client.play(
        bash(f"echo done >> effects; exec -a {token} sleep 600"),
        bash("cat effects", text="what happened?"),
        {"text": "done"},
    )
    async with client.watching(run) as watch:
        await until(lambda: processes_naming(token))
        kill(first)
        await until(lambda: not processes_naming(token))
        assert await key_is_good(broken.details, run)

        broken.start_worker()
        reader = await check_story(client, run, watch)

    assert await client.tags(run) == [
        *BEGIN,
        "message_persisted",
        "tool_started",
        "resumed",
        "message_persisted",
        "message_persisted",
        "tool_started",
        "message_persisted",
        "message_persisted",
        *END,
    ]
    (resumed,) = [e for e in await client.history(run) if tag_of(e) == "resumed"]
    assert (resumed["data"]["reason"], resumed["data"]["attempt"]) == ("lost", 2)
    killed, counted = parts_of(reader.message, "tool-bash")
    assert (killed["state"], killed["errorText"]) == (
        "output-error",
        "interrupted: outcome unknown",
    )
    assert counted["output"]["stdout"] == "done\n", "the command ran once"
    assert watch.connections == 1, "the reader noticed nothing"
    assert not await key_is_good(broken.details, run)
    assert not broken.workspace_of(run.session_id).parent.exists()


@pytest.mark.settings(lease_seconds="1")
async def test_invariant_2_of_many_commands_at_once_the_next_worker_runs_only_those_never_started(
    broken: BreakableStack, client: Rest
) -> None:
    """One has ended, as many as may overlap are at work, the last two wait for a place."""
    token = f"token-{secrets.token_hex(8)}"
    at_work = [f"echo {n} >> effects; exec -a {token} sleep 600" for n in range(TOOLS_AT_ONCE_MAX)]
    commands = ["echo first >> effects", *at_work, "echo 98 >> effects", "echo 99 >> effects"]
    tools = [{"name": "bash", "input": {"command": command}} for command in commands]
    first = broken.start_worker()
    run = await client.play({"tools": tools}, bash("cat effects"), {"text": "done"})
    async with client.watching(run) as watch:
        await until(lambda: len(processes_naming(token)) == TOOLS_AT_ONCE_MAX, timeout_seconds=30)
        kill(first)
        broken.start_worker()
        reader = await check_story(client, run, watch)

    *parallel, counted = parts_of(reader.message, "tool-bash")
    errors = [call.get("errorText") for call in parallel]
    unknown = "interrupted: outcome unknown"
    assert errors == [None, *[unknown] * TOOLS_AT_ONCE_MAX, None, None]
    once = ["first", *map(str, range(TOOLS_AT_ONCE_MAX)), "98", "99"]
    assert sorted(counted["output"]["stdout"].split()) == sorted(once)


@pytest.mark.settings(sandbox="none", lease_seconds="1")
async def test_the_only_worker_is_killed_while_the_model_speaks(
    broken: BreakableStack, client: Rest
) -> None:
    first = broken.start_worker()
    run = await client.play(SPEAK)
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        kill(first)

        broken.start_worker()
        reader = await check_story(client, run, watch)

    assert await client.tags(run) == [
        *BEGIN,
        "resumed",
        "message_persisted",
        "message_persisted",
        *END,
    ]
    cut, whole = [part["text"] for part in parts_of(reader.message, "text")]
    assert cut.startswith("word0 word1 word2 word3 word4 word5")
    assert SPEECH.startswith(cut)
    assert whole == SPEECH
    assert watch.connections == 1
    usage = (await client.http.get(f"/api/chat/runs/{run.run_id}")).json()["usage"]
    assert usage["outputTokens"] == 1, "the step that counts is charged once"


@pytest.mark.settings(sandbox="none", lease_seconds="1")
async def test_the_worker_and_redis_are_lost_together_and_only_who_watched_is_told(
    broken: BreakableStack, client: Rest
) -> None:
    """The one thing that can go: what a step in flight had streamed."""
    first = broken.start_worker()
    run = await client.play(SPEAK)
    async with client.watching(run) as watch:
        await watch.says("word5 ")
        kill(first)
        with redis.Redis.from_url(broken.details["redisUrl"]) as server:
            server.flushall()
        broken.start_worker()
        await watch.finished()
    assert [type(frame) for frame in watch.frames[-2:]] == [Error, Finish]
    check_history(await client.ended(run))

    async with client.watching(run) as anew:
        reader = await check_story(client, run, anew)

    assert reader.errors == []
    assert [part["text"] for part in parts_of(reader.message, "text")] == [SPEECH]


@pytest.mark.settings(sandbox="none", lease_seconds="0.6")
async def test_a_run_that_kills_each_of_its_workers_is_ended_with_a_reason(
    broken: BreakableStack, client: Rest
) -> None:
    run = await client.play({"text": "word " * 5_000, "delta_ms": 20})
    async with client.watching(run) as watch:
        seen = 0
        while not watch.done:
            worker = broken.start_worker()
            await until(lambda seen=seen: watch.done or len(watch.chunks) > seen + 1)
            seen = len(watch.chunks)
            kill(worker)
        broken.start_worker()
        await check_story(client, run, watch)

    status = (await client.http.get(f"/api/chat/runs/{run.run_id}")).json()
    assert (status["status"], status["error"]["code"]) == ("failed", "tries_exhausted")
