"""Who may start, see and stop whose runs."""

from collections.abc import AsyncIterator

import pytest

from tests.support.rest import ECHO, Rest, Run
from tests.support.run_story import check_story
from workers.stack.stack import Stack


@pytest.fixture
async def org(stack: Stack) -> AsyncIterator[Rest]:
    async with Rest(stack.details["baseUrl"], stack.details["orgApiKey"]) as client:
        yield client


@pytest.fixture
async def other(stack: Stack) -> AsyncIterator[Rest]:
    async with Rest(stack.details["baseUrl"], stack.details["otherApiKey"]) as client:
        yield client


async def test_a_bearer_key_is_as_good_as_x_api_key(rest: Rest, stack: Stack) -> None:
    async with Rest(stack.details["baseUrl"], stack.details["apiKey"], bearer=True) as bearer:
        run = await bearer.start("the same person")
        async with bearer.watching(run) as watch:
            await check_story(bearer, run, watch)

        assert await rest.history(run) == await bearer.history(run)


async def test_both_at_once_or_none_is_401(rest: Rest, stack: Stack) -> None:
    key = stack.details["apiKey"]
    both = await rest.http.get("/api/chat/runs/x", headers={"authorization": f"Bearer {key}"})
    assert both.status_code == 401
    del rest.http.headers["x-api-key"]
    assert (await rest.http.post("/api/chat/runs", json={"prompt": "x"})).status_code == 401


async def test_an_organisation_starts_and_sees_its_members_runs(org: Rest, stack: Stack) -> None:
    member = stack.details["memberAccountId"]

    run = await org.start("for a member", accountId=member)
    history = await org.ended(run)

    assert history[0]["subject"] == member
    assert history[0]["actor"] == f"org:{stack.details['orgAccountId']}"
    assert (await org.messages(run))[-1]["parts"][-1]["text"] == "for a member"


async def test_an_organisation_may_not_act_for_a_stranger(org: Rest, stack: Stack) -> None:
    body = {"prompt": "x", "model": ECHO, "accountId": stack.details["otherAccountId"]}

    answer = await org.http.post("/api/chat/runs", json=body)

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_invariant_9_for_a_stranger_a_run_is_not_there(rest: Rest, other: Rest) -> None:
    run = await rest.start("mine")
    await rest.ended(run)
    unknown = Run(*3 * ["01900000-0000-7000-8000-0000000fffff"])

    for method, path in (
        ("GET", "/api/chat/runs/{0.run_id}"),
        ("GET", "/api/chat/runs/{0.run_id}/events"),
        ("GET", "/api/chat/runs/{0.run_id}/stream"),
        ("GET", "/api/chat/{0.chat_id}/stream"),
        ("GET", "/api/chats/{0.chat_id}/messages"),
        ("POST", "/api/chat/runs/{0.run_id}/cancel"),
    ):
        mine = await other.http.request(method, path.format(run))
        nobodys = await other.http.request(method, path.format(unknown))
        assert mine.status_code == 404, path
        assert mine.content == nobodys.content, path
    assert await rest.status(run) == "completed"
