"""A client that lists its runs, on a whole stack."""

from typing import Any

from tests.support.rest import Rest, Run
from tests.support.waiting import until
from workers.stack.stack import Stack

RUNS = "/api/chat/runs"


async def listed(rest: Rest, **asked: Any) -> list[dict[str, Any]]:
    """Every page of it."""
    rows: list[dict[str, Any]] = []
    while True:
        response = await rest.http.get(RUNS, params={"limit": 2, **asked})
        assert response.status_code == 200, response.text
        body = response.json()
        rows += body["data"]
        if "nextCursor" not in body:
            return rows
        asked["cursor"] = body["nextCursor"]


async def shown(rest: Rest, run: Run) -> Any:
    return (await rest.http.get(f"{RUNS}/{run.run_id}")).json()


async def test_a_client_finds_its_runs_page_by_page_as_each_is_shown_alone(rest: Rest) -> None:
    runs = [await rest.start(f"number {number}") for number in range(5)]
    for run in runs:
        await rest.reached(run, "sandbox_released")
    alone = [await shown(rest, run) for run in reversed(runs)]

    async def all_there() -> bool:
        return (await listed(rest))[:5] == alone

    await until(all_there)
    assert await listed(rest, chatId=runs[3].chat_id) == [alone[1]]
    assert await listed(rest, chatId=runs[3].chat_id, status="failed") == []
    assert (await listed(rest, status="completed"))[:5] == alone


async def test_an_organisation_lists_its_members_runs_and_nobody_elses(stack: Stack) -> None:
    details = stack.details
    async with (
        Rest(details["baseUrl"], details["orgApiKey"]) as org,
        Rest(details["baseUrl"], details["otherApiKey"]) as other,
    ):
        member = details["memberAccountId"]
        run = await org.start("for the member", accountId=member)
        await org.ended(run)

        async def is_there() -> bool:
            return await shown(org, run) in await listed(org, accountId=member)

        await until(is_there)
        assert run.run_id not in [row["runId"] for row in await listed(org)]
        assert await listed(other, chatId=run.chat_id) == []
        for client, account in ((other, member), (org, details["otherAccountId"])):
            refused = await client.http.get(RUNS, params={"accountId": account})
            assert refused.status_code == 403
            assert refused.json()["missing_fields"] == ["accountId"]
