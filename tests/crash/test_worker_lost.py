"""Workers that are killed, told to stop or put to sleep in the middle of a run."""

import secrets
import signal
from pathlib import Path
from uuid import UUID

import pytest

from runs_domain.ids import SessionId, sandbox_name
from tests.support.rest import Rest, Run, bash, parts_of, tag_of
from tests.support.run_key import run_key
from tests.support.run_story import check_story
from tests.support.sandboxes import processes_naming
from tests.support.stacks import BreakableStack, kill
from tests.support.waiting import until

pytestmark = pytest.mark.crash

BEGIN = ["requested", "provisioned", "key_minted", "started"]
END = ["completed", "key_revoked", "sandbox_released"]
SPEECH = " ".join(f"word{number}" for number in range(60))
SPEAK = {"text": SPEECH, "delta_ms": 30}


def sandbox_of(stack: BreakableStack, run: Run) -> Path:
    return stack.sandboxes / sandbox_name(SessionId(UUID(run.session_id)))


async def key_is_good(stack: BreakableStack, run: Run) -> bool:
    key = run_key(stack.details["env"], run.run_id)
    async with Rest(stack.details["baseUrl"], key) as as_run:
        answer = await as_run.http.get(f"/api/chat/runs/{run.run_id}")
    assert answer.status_code in {200, 401}
    return answer.status_code == 200


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
        assert await key_is_good(broken, run)

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
    assert not await key_is_good(broken, run)
    assert not sandbox_of(broken, run).exists()


@pytest.mark.settings(sandbox="none")
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


async def test_a_worker_that_is_told_to_stop_hands_its_run_over(
    broken: BreakableStack, client: Rest
) -> None:
    first = broken.start_worker()
    steps = [bash(f"echo {number} >> steps; sleep 0.1") for number in range(12)]
    run = await client.play(*steps, bash("cat steps"), {"text": "done"})
    async with client.watching(run) as watch:
        await client.reached(run, "tool_started")
        broken.start_worker()
        kill(first, signal.SIGTERM)
        assert first.child.exit_code == 0

        reader = await check_story(client, run, watch)

    resumed = [e["data"] for e in await client.history(run) if tag_of(e) == "resumed"]
    assert [(one["reason"], one["attempt"]) for one in resumed] == [("handover", 2)]
    calls = parts_of(reader.message, "tool-bash")
    assert [call["state"] for call in calls] == ["output-available"] * 13
    assert calls[-1]["output"]["stdout"].split() == [str(number) for number in range(12)]


@pytest.mark.settings(step_grace_seconds="0.5")
async def test_a_step_that_outlasts_the_grace_is_cut_off_and_no_try_is_lost(
    broken: BreakableStack, client: Rest
) -> None:
    token = f"token-{secrets.token_hex(8)}"
    first = broken.start_worker()
    run = await client.play(
        bash(f"echo done >> effects; exec -a {token} sleep 600"), bash("cat effects"), {"text": "."}
    )
    async with client.watching(run) as watch:
        await until(lambda: processes_naming(token))
        broken.start_worker()
        kill(first, signal.SIGTERM)
        assert processes_naming(token) == []

        reader = await check_story(client, run, watch)

    resumed = [e["data"] for e in await client.history(run) if tag_of(e) == "resumed"]
    assert [one["reason"] for one in resumed] == ["handover"]
    cut, counted = parts_of(reader.message, "tool-bash")
    assert cut["errorText"] == "interrupted: outcome unknown"
    assert counted["output"]["stdout"] == "done\n"


@pytest.mark.settings(sandbox="none")
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


@pytest.mark.settings(sandbox="none")
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
