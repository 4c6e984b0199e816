"""A client stops a run: while it waits, while it speaks, while it works, twice, and too late."""

import asyncio
import secrets

import httpx
import pytest

from runs_domain.frames import Abort, decode
from runs_domain.stream_reader import StreamReader
from tests.support.rest import Rest, Run, bash, parts_of
from tests.support.run_story import check_history, check_story
from tests.support.sandboxes import processes_naming
from tests.support.stacks import BreakableStack
from tests.support.waiting import until

SLOW = {"text": "word " * 2_000, "delta_ms": 20}
NO_TOOL = {"name": "nonesuch", "input": {}}


@pytest.mark.settings(sandbox="none")
async def test_a_run_that_waits_for_a_worker_ends_at_the_cancel(broken: BreakableStack) -> None:
    async with Rest(broken.details["baseUrl"], broken.details["apiKey"]) as rest:
        run = await rest.start("nobody is there")
        async with rest.watching(run) as watch:
            answer = await rest.cancel(run)
            frames = await watch.finished()
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert await rest.status(run) == "cancelled"
        assert (await rest.cancel(run)).status_code == 200
        assert StreamReader().read(watch.frames).finished

        broken.start_worker()
        history = await rest.ended(run)

        check_history(history)
        tags = ["requested", "cancel_requested", "cancelled", "sandbox_released"]
        assert await rest.tags(run) == tags
        assert await rest.replay(run) == frames


async def test_a_model_is_cut_short_and_what_it_said_is_kept(rest: Rest) -> None:
    run = await rest.play(SLOW)
    async with rest.watching(run) as watch:
        await watch.has(10)

        answer = await rest.cancel(run)

        assert (answer.status_code, answer.json()["runId"]) == (202, run.run_id)
        reader = await check_story(rest, run, watch)
    assert await rest.status(run) == "cancelled"
    assert reader.finish_reason == "other"
    (said,) = parts_of(reader.message, "text")
    assert "word word" in said["text"]
    assert said["state"] == "done"
    assert len(said["text"]) < len(SLOW["text"])
    tags = await rest.tags(run)
    assert tags[-5:] == [
        "cancel_requested",
        "message_persisted",
        "cancelled",
        "key_revoked",
        "sandbox_released",
    ]


async def test_a_command_is_killed_and_its_call_is_closed(rest: Rest) -> None:
    token = f"token-{secrets.token_hex(8)}"
    run = await rest.play(bash(f"exec -a {token} sleep 600"), {"text": "never said"})
    async with rest.watching(run) as watch:
        await until(lambda: processes_naming(token))

        await rest.cancel(run)

        reader = await check_story(rest, run, watch)
    assert processes_naming(token) == []
    (call,) = parts_of(reader.message, "tool-bash")
    assert (call["state"], call["errorText"]) == ("output-error", "Cancelled")
    assert await rest.status(run) == "cancelled"


async def test_twice_is_once(rest: Rest) -> None:
    run = await rest.play(SLOW)
    await rest.reached(run, "started")

    answers = [await rest.cancel(run), await rest.cancel(run)]
    history = await rest.ended(run)

    assert answers[0].status_code == 202
    assert answers[1].status_code in {200, 202}
    check_history(history)
    assert [event["type"] for event in history].count("run.cancel_requested.v1") == 1
    late = await rest.cancel(run)
    assert (late.status_code, late.json()["status"]) == (200, "cancelled")
    assert await rest.history(run) == history


async def test_many_clients_at_once_are_one_cancel(rest: Rest) -> None:
    run = await rest.play(SLOW)
    async with rest.watching(run) as watch:
        await watch.has(3)
        answers = await asyncio.gather(*(rest.cancel(run) for _ in range(20)))
        await check_story(rest, run, watch)

    assert {answer.status_code for answer in answers} <= {200, 202}
    assert 202 in {answer.status_code for answer in answers}
    assert (await rest.tags(run)).count("cancel_requested") == 1
    assert await rest.status(run) == "cancelled"


async def test_invariant_1_a_cancel_at_any_moment_leaves_one_end_and_its_answer_was_true(
    rest: Rest,
) -> None:
    """Runs of a few milliseconds, each cancelled a look later than the one before."""

    async def cancelled_after(looks: int) -> tuple[Run, httpx.Response]:
        run = await rest.play({"tools": [NO_TOOL]}, {"text": "one two", "delta_ms": 1})
        for _ in range(looks):
            await rest.status(run)
        return run, await rest.cancel(run)

    for run, answer in [await cancelled_after(looks) for looks in range(16)]:
        check_history(await rest.ended(run))
        said, status = answer.json()["status"], await rest.status(run)
        tags = await rest.tags(run)
        if answer.status_code == 202:
            assert (status, tags.count("cancel_requested")) == ("cancelled", 1)
        else:
            assert said == status == "completed"
            assert "cancel_requested" not in tags
        frames = [decode(chunk) for chunk in await rest.replay(run)]
        assert (Abort in {type(frame) for frame in frames}) == (status == "cancelled")
        assert StreamReader().read(frames).finished


async def test_after_the_end_nothing_changes(rest: Rest) -> None:
    run = await rest.start("done before")
    history = await rest.ended(run)

    answer = await rest.cancel(run)

    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert await rest.history(run) == history
