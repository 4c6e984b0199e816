"""GET runs over the memory twin: whose runs, which of them, in what order, and what is refused."""

from typing import Any
from urllib.parse import urlencode

import jsonschema
import pytest
from msgspec.structs import replace

from runs_api.cursor import cursor_of
from runs_api.run_list import EXAMPLE
from runs_domain import commands as c
from runs_domain.ids import Position
from runs_domain.run_lists_port import ListQuery
from runs_domain.storage.identity import uuid7
from tests.contract.test_api_bad_input import refused
from tests.support.api import ME, MEMBER, MEMBERS, MINE, ORG, ORGS, OTHER, THEIRS, Api
from tests.support.driven import Driven

RUNS = "/api/chat/runs"


async def page(api: Api, headers: Any = MINE, **asked: Any) -> dict[str, Any]:
    answer = await api.get(f"{RUNS}?{urlencode(asked)}", headers)
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.json
    return body


def ids(body: dict[str, Any]) -> list[str]:
    return [row["runId"] for row in body["data"]]


async def one_of_each(api: Api) -> dict[str, Driven]:
    """A run of every status, the oldest first."""
    runs = {status: await api.start() for status in ("queued", "running", "completed", "failed")}
    for status in ("running", "failed"):
        await runs[status].begin()
    await runs["completed"].complete()
    failed = runs["failed"]
    await failed.say(reason="tool-calls")
    await failed.do(c.FailRun(attempt=failed.attempt, code="internal", sentence="It broke"))
    runs["cancelled"] = await api.start()
    await api.post(f"{runs['cancelled'].path}/cancel")
    return runs


async def test_a_listed_run_is_what_its_own_route_shows() -> None:
    """Field for field, in every status, and newest first."""
    api = Api()
    runs = await one_of_each(api)
    body = await page(api)
    assert body.keys() == {"data"}
    shown = [(await api.get(run.path)).json for run in reversed(runs.values())]
    assert body["data"] == shown


async def test_filters_and_their_combination_leave_the_runs_they_name() -> None:
    """By status, by chat, by both."""
    api = Api()
    runs = await one_of_each(api)
    for status, run in runs.items():
        assert ids(await page(api, status=status)) == [str(run.run_id)]
        assert ids(await page(api, chatId=run.chat_id)) == [str(run.run_id)]
        assert ids(await page(api, chatId=run.chat_id, status=status)) == [str(run.run_id)]
    other = {"status": "queued", "chatId": runs["failed"].chat_id}
    assert await page(api, **other) == {"data": []}


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
async def test_pages_join_into_the_whole_list(limit: int) -> None:
    """The last one says nothing of a next one, also where it is full."""
    api = Api()
    whole = [str(run.run_id) for run in reversed((await one_of_each(api)).values())]
    found: list[str] = []
    asked: dict[str, Any] = {"limit": limit}
    while True:
        body = await page(api, **asked)
        found += ids(body)
        assert len(body["data"]) <= limit
        if "nextCursor" not in body:
            break
        assert len(body["data"]) == limit
        asked["cursor"] = body["nextCursor"]
    assert found == whole


async def test_a_page_has_20_runs_where_nothing_else_is_asked_for() -> None:
    """The limit may change between pages: it is no part of what the cursor belongs to."""
    api = Api()
    whole = [str((await api.start()).run_id) for _ in range(23)]
    first = await page(api)
    assert ids(first) == whole[:2:-1]
    rest = await page(api, limit=7, cursor=first["nextCursor"])
    assert ids(rest) == whole[2::-1]


async def test_a_cursor_stays_good_while_runs_are_added() -> None:
    """New runs are before the first page, never inside a later one."""
    api = Api()
    runs = [str((await api.start()).run_id) for _ in range(4)]
    first = await page(api, limit=2)
    await api.start()
    second = await page(api, limit=2, cursor=first["nextCursor"])
    assert ids(first) + ids(second) == runs[::-1]


# ------------------------------------------------------------------------------ whose runs


async def test_invariant_9_another_accounts_runs_are_in_no_list() -> None:
    """An unknown chat and a foreign one give the same empty page."""
    api = Api()
    run = await api.start()
    assert await page(api, THEIRS) == {"data": []}
    assert await page(api, THEIRS, chatId=run.chat_id) == {"data": []}
    assert await page(api, THEIRS, chatId=uuid7()) == {"data": []}


async def test_I_37_an_organisation_lists_a_members_runs_only_where_it_names_the_member() -> None:
    """Its own without; one's own account may always be named."""
    api = Api()
    of_member, of_org = await api.start(MEMBERS), await api.start(ORGS)
    assert ids(await page(api, ORGS)) == [str(of_org.run_id)]
    assert ids(await page(api, ORGS, accountId=ORG)) == [str(of_org.run_id)]
    assert ids(await page(api, ORGS, accountId=MEMBER)) == [str(of_member.run_id)]
    assert ids(await page(api, MEMBERS, accountId=MEMBER)) == [str(of_member.run_id)]


@pytest.mark.parametrize(
    ("headers", "account"), [(ORGS, OTHER), (MINE, OTHER), (MEMBERS, ORG), (MINE, uuid7())]
)
async def test_an_account_that_the_key_may_not_act_for_is_a_403(headers: Any, account: Any) -> None:
    """As at the POST, by the same guard; an unknown account is no different."""
    api = Api()
    answer = await api.get(f"{RUNS}?accountId={account}", headers)
    refused(answer, 403, "forbidden", ["accountId"])
    assert answer.body == (await api.post(RUNS, {"prompt": "a", "accountId": str(account)},
                                          headers)).body  # fmt: skip


async def test_a_runs_own_key_lists_that_run_alone() -> None:
    """Of its chat and of its account it sees no more than on every other route."""
    api = Api()
    mine, other = await api.start(), await api.start()
    key = replace(api.keys.known["mine"], run_id=mine.run_id, scopes=("runs:read",))
    api.keys.known["run"] = key
    of_run = {"x-api-key": "run"}
    assert ids(await page(api, of_run)) == [str(mine.run_id)]
    assert ids(await page(api, of_run, chatId=mine.chat_id, status="queued")) == [str(mine.run_id)]
    assert await page(api, of_run, chatId=other.chat_id) == {"data": []}
    assert await page(api, of_run, status="failed") == {"data": []}
    cursor = (await page(api, limit=1))["nextCursor"]
    refused(await api.get(f"{RUNS}?cursor={cursor}", of_run), 400, "invalid_body", ["cursor"])
    api.keys.known["run"] = replace(key, account_id=ORG, account_kind="org")
    refused(await api.get(f"{RUNS}?accountId={MEMBER}", of_run), 403, "forbidden", ["accountId"])


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("status=done", "status"),
        ("status=Queued", "status"),
        ("status=", "status"),
        ("status=queued,failed", "status"),
        ("status=queued&status=failed", "status"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%2B1", "limit"),
        ("limit=1e1", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=1&limit=1", "limit"),
        ("chatId=x", "chatId"),
        ("chatId=", "chatId"),
        ("chatId=01900000000070008000000000000001", "chatId"),
        ("accountId=x", "accountId"),
        ("accountId=%00", "accountId"),
        ("cursor=", "cursor"),
        ("cursor=x", "cursor"),
        ("cursor=AAAAAAAAAAAAAAAAAAAA", "cursor"),
        ("cursor=%F0%9F%90%88", "cursor"),
        ("cursor=" + "A" * 5000, "cursor"),
    ],
)
async def test_a_bad_value_is_refused_by_name(query: str, name: str) -> None:
    """One clear 400; which values there are is told, the value itself is not repeated."""
    refused(await Api().get(f"{RUNS}?{query}"), 400, "invalid_body", [name])


@pytest.mark.parametrize("name", ["staus", "Status", "before", "page", "account_id", ""])
async def test_I_64_an_unknown_parameter_is_refused_by_name(name: str) -> None:
    """A misspelt filter would otherwise list the wrong runs."""
    answer = await Api().get(f"{RUNS}?limit=1&{name}=1")
    refused(answer, 400, "unknown_field", [name])


async def test_too_many_parameters_are_refused() -> None:
    """Before they are looked at."""
    refused(await Api().get(f"{RUNS}?{'&'.join(['a=1'] * 21)}"), 400, "invalid_body")


async def test_a_cursor_of_another_list_is_refused() -> None:
    """Of other filters, of another account, with a changed letter, of a later layout."""
    api = Api()
    for _ in range(3):
        await api.start()
        await api.start(ORGS)
    cursor = (await page(api, limit=1))["nextCursor"]
    of_org = (await page(api, ORGS, limit=1))["nextCursor"]
    for index in range(len(cursor)):
        letter = "A" if cursor[index] != "A" else "B"
        damaged = f"{cursor[:index]}{letter}{cursor[index + 1 :]}"
        refused(await api.get(f"{RUNS}?cursor={damaged}"), 400, "invalid_body", ["cursor"])
    for bad in (of_org, cursor + "=", cursor[:-4], f"{cursor}&status=queued"):
        refused(await api.get(f"{RUNS}?cursor={bad}"), 400, "invalid_body", ["cursor"])
    beyond = cursor_of(ListQuery(account_id=ME, limit=1), Position(2**63))
    refused(await api.get(f"{RUNS}?cursor={beyond}"), 400, "invalid_body", ["cursor"])


# ------------------------------------------------------------------------------ doubt


async def test_I_62_without_the_store_a_list_is_a_503_and_never_empty() -> None:
    """Also where the account has no runs."""
    api = Api()
    api.log.down = True
    answer = await api.get(RUNS)
    refused(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(("seconds", "told"), [(0.0, None), (0.99, None), (1.0, "1"), (61.7, "61")])
async def test_a_list_says_when_it_stands_still(seconds: float, told: str | None) -> None:
    """Old rows are given all the same; nothing is said of the usual moment."""
    api = Api()
    await api.start()
    api.run_lists.behind_seconds = seconds
    answer = await api.get(RUNS)
    assert len(answer.json["data"]) == 1
    assert answer.headers.get("x-workflow-behind-seconds") == told
    assert answer.headers["cache-control"] == "private, no-cache"


async def test_the_documented_example_is_a_page() -> None:
    """By the schema beside it."""
    document = (await Api().get("/openapi.json", {})).json
    content = document["paths"][RUNS]["get"]["responses"]["200"]["content"]["application/json"]
    assert content["example"] == EXAMPLE
    schema = content["schema"] | {"components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(content["example"])
