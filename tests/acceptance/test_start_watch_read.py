"""A REST client starts a run, watches it live, and reads what happened."""

from itertools import pairwise

from tests.support.rest import PLAYBOOK, Rest, bash, parts_of
from tests.support.run_story import check_story

PLAIN_RUN = [
    "requested",
    "provisioned",
    "key_minted",
    "started",
    "message_persisted",
    "completed",
    "key_revoked",
    "sandbox_released",
]


async def test_an_echo_run_from_its_start_to_its_history(rest: Rest) -> None:
    run = await rest.start("  hello brave new world ")
    async with rest.watching(run) as watch:
        reader = await check_story(rest, run, watch)

    assert reader.finish_reason == "stop"
    assert await rest.status(run) == "completed"
    question, answer = await rest.messages(run)
    assert question["parts"] == [{"type": "text", "text": "hello brave new world"}]
    assert answer["parts"] == [
        {"type": "step-start"},
        {"type": "text", "text": "hello brave new world", "state": "done"},
    ]


async def test_a_plain_runs_events_come_in_exactly_this_order(rest: Rest) -> None:
    run = await rest.start("hello")

    history = await rest.ended(run)

    assert [event["type"] for event in history] == [f"run.{tag}.v1" for tag in PLAIN_RUN]
    assert [event["actor"].partition(":")[0] for event in history] == ["key"] + 7 * ["worker"]
    assert all(first["at"] <= second["at"] for first, second in pairwise(history))


async def test_the_202_says_where_to_look_and_the_question_is_there_at_once(rest: Rest) -> None:
    response = await rest.http.post("/api/chat/runs", json={"prompt": "q"})

    said = response.json()
    assert set(said) == {"runId", "chatId", "sessionId"}
    assert response.headers["location"] == f"/api/chat/runs/{said['runId']}"
    assert response.headers["x-workflow-run-id"] == said["runId"]
    assert (await rest.http.get(response.headers["location"])).json()["runId"] == said["runId"]
    messages = (await rest.http.get(f"/api/chats/{said['chatId']}/messages")).json()["data"]
    assert messages[0]["role"] == "user"


async def test_a_command_in_the_real_sandbox_shows_42_in_a_tool_output(rest: Rest) -> None:
    run = await rest.play(bash("echo $((6*7)); whoami; pwd", text="looking"), {"text": "done"})
    async with rest.watching(run) as watch:
        await check_story(rest, run, watch)

    assert await rest.tags(run) == [
        *PLAIN_RUN[:5],
        "tool_started",
        "message_persisted",
        *PLAIN_RUN[4:],
    ]
    answer = (await rest.messages(run))[-1]
    (call,) = parts_of(answer, "tool-bash")
    assert call["output"]["stdout"] == "42\nagent\n/workspace\n"
    assert [part["text"] for part in parts_of(answer, "text")] == ["looking", "done"]


async def test_what_one_step_writes_the_next_one_reads(rest: Rest) -> None:
    run = await rest.play(
        {"tools": [{"name": "write", "input": {"filePath": "a.txt", "content": "one\ntwo\n"}}]},
        bash("sort -r a.txt"),
        {"tools": [{"name": "read", "input": {"filePath": "a.txt"}}]},
        {"text": "done"},
    )
    await rest.ended(run)

    answer = (await rest.messages(run))[-1]
    assert parts_of(answer, "tool-bash")[0]["output"]["stdout"] == "two\none\n"
    assert parts_of(answer, "tool-read")[0]["output"]["content"] == "1: one\n2: two"


async def test_a_run_that_the_model_rejects_fails_with_a_reason(rest: Rest) -> None:
    run = await rest.start("this is no playbook", PLAYBOOK)
    async with rest.watching(run) as watch:
        frames = await watch.finished()
        await rest.ended(run)
        assert await rest.replay(run) == frames

    status = (await rest.http.get(f"/api/chat/runs/{run.run_id}")).json()
    assert status["status"] == "failed"
    assert status["error"]["code"] == "model_rejected"
    assert watch.frames[-1].finish_reason == "error"


async def test_two_runs_at_once_keep_to_themselves(rest: Rest) -> None:
    first = await rest.play(bash("echo first > who; cat who"), bash("cat who"), {"text": "1"})
    second = await rest.play(bash("echo second > who; cat who"), bash("cat who"), {"text": "2"})
    for run, word in ((first, "first"), (second, "second")):
        await rest.ended(run)
        calls = parts_of((await rest.messages(run))[-1], "tool-bash")
        assert [call["output"]["stdout"] for call in calls] == [f"{word}\n"] * 2
