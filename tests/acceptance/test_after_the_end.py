"""What a client reads after the end is what it could have watched live, with Redis emptied too."""

import pytest
import redis

from tests.support.rest import Rest, Run, bash
from tests.support.run_story import check_story
from workers.stack.stack import Stack


async def watched(rest: Rest) -> tuple[Run, list[bytes]]:
    """A run with text, two tool calls side by side, an error and text again; what was live."""
    run = await rest.play(
        {
            "text": "Zwölf Boxkämpfer 🥊 jagen\n\nViktor",
            "tools": [
                {"name": "bash", "input": {"command": "echo '\"quotes\" \\\\ and ünïcode'"}},
                {"name": "nothing", "input": {"a": [1, None, {"b": 1.5}]}},
            ],
        },
        bash("echo to-stderr >&2; exit 3"),
        {"text": "the end"},
    )
    async with rest.watching(run) as watch:
        await check_story(rest, run, watch)
        return run, watch.chunks


async def test_invariant_7_the_stream_is_the_same_to_the_byte_from_any_index(rest: Rest) -> None:
    run, live = await watched(rest)

    for index in range(len(live)):
        assert await rest.replay(run, start_index=index) == live[index:]
    over = await rest.http.get(
        f"/api/chat/runs/{run.run_id}/stream", params={"startIndex": len(live)}
    )
    assert (over.status_code, over.content) == (204, b"")


async def test_nothing_is_lost_with_redis(rest: Rest, stack: Stack) -> None:
    run, live = await watched(rest)
    before = (await rest.history(run), await rest.messages(run), await rest.status(run))

    with redis.Redis.from_url(stack.details["redisUrl"]) as client:
        client.flushall()

    assert await rest.replay(run) == live
    assert (await rest.history(run), await rest.messages(run), await rest.status(run)) == before
    after = await rest.start("and the stack goes on")
    await rest.ended(after)


async def test_a_stream_without_a_position_has_nothing_to_resume_after_the_end(rest: Rest) -> None:
    run = await rest.start("over")
    await rest.ended(run)

    for path in (f"/api/chat/runs/{run.run_id}/stream", f"/api/chat/{run.chat_id}/stream"):
        assert (await rest.http.get(path)).status_code == 204


@pytest.mark.parametrize("name", ["chat_id", "run_id"])
async def test_a_chat_and_a_run_lead_to_the_same_stream(rest: Rest, name: str) -> None:
    run, live = await watched(rest)

    path = f"/api/chat/{getattr(run, name)}/stream"
    answer = await rest.http.get(path, headers={"last-event-id": "2"})

    assert answer.headers["x-workflow-run-id"] == run.run_id
    assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")] == [
        *(chunk.decode() for chunk in live[3:]),
        "[DONE]",
    ]
