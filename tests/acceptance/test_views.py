"""The projector's tables show what happened, for every run that this stack has seen."""

from uuid import UUID

from runs_domain.ids import AccountId, ChatId, RunId
from runs_domain.keys import secrets_of
from runs_domain.settings import Secret, load
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import open_log
from tests.support.rest import Rest, bash
from tests.support.views import are_caught_up, folded, shown
from tests.support.waiting import until
from workers.stack.stack import Stack


async def test_invariant_8_the_views_show_a_completed_a_failed_and_a_cancelled_run(
    rest: Rest, stack: Stack
) -> None:
    runs = [
        await rest.play(bash("echo 1"), {"text": "done"}),
        await rest.play({"error": "rejected"}),
        await rest.play(bash("sleep 600")),
    ]
    await rest.reached(runs[2], "tool_started")
    await rest.cancel(runs[2])
    for run in runs:
        await rest.ended(run)

    settings = load(stack.details["env"])
    account = AccountId(UUID(stack.details["accountId"]))
    url = Secret(stack.details["databaseUrl"])
    reader = ReconnectingConnection(url, name="reader")
    async with open_log(url, secrets_of(settings), SystemClock()) as log:
        await until(lambda: are_caught_up(reader), timeout_seconds=30)
        rows = []
        for run in runs:
            place = (RunId(UUID(run.run_id)), account, ChatId(UUID(run.chat_id)))
            row, messages = await shown(reader, log, place)
            assert (row, messages) == await folded(log, place)
            assert row is not None
            assert [one.message for one in messages] == await rest.messages(run)
            rows.append(row.status)
    await reader.close()
    assert rows == ["completed", "failed", "cancelled"]
