"""Workers that are killed while they give a run up."""

from uuid import UUID

import psycopg
import pytest

from runs_domain import commands as c
from runs_domain.handle import handle
from runs_domain.ids import AccountId, Attempt, RunId, retry_run_id
from runs_domain.keys import secrets_of
from runs_domain.plan import TRIES_MAX
from runs_domain.ports import Context
from runs_domain.settings import load
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import open_log
from tests.support.operators import run_script
from tests.support.rest import SPEAK, Rest, Run, parts_of
from tests.support.run_story import check_story
from tests.support.stacks import KILL_SECONDS, BreakableStack

pytestmark = pytest.mark.crash


def letters_in(broken: BreakableStack) -> list[tuple[str, int, str]]:
    with psycopg.connect(broken.details["databaseUrl"]) as service:
        found = service.execute("SELECT reason, tries, last_error FROM dead_letters").fetchall()
    return [(str(reason), int(tries), str(error)) for reason, tries, error in found]


async def lose_workers(broken: BreakableStack, run: Run, count: int) -> None:
    """As if `count` workers had taken the run and died."""
    settings = load(broken.details["env"])
    run_id, account_id = UUID(run.run_id), UUID(broken.details["accountId"])
    secrets = secrets_of(settings)
    async with open_log(settings.database_url, secrets, SystemClock()) as log:
        for number in range(count):
            context = Context(
                actor="worker:gone",
                subject=AccountId(account_id),
                correlation="c",
                causation="c",
                attempt=Attempt(number + 2),
            )
            resume = c.ResumeRun(attempt=Attempt(number + 2), reason="lost")
            await handle(log, RunId(run_id), resume, context)


@pytest.mark.settings(sandbox="none", lease_seconds="0.6")
async def test_invariant_1_workers_killed_before_and_after_a_letter_leave_one_letter_and_an_end(
    broken: BreakableStack, client: Rest
) -> None:
    run = await client.play(SPEAK)
    await lose_workers(broken, run, TRIES_MAX - 1)
    async with client.watching(run) as watch:
        unlucky = broken.start_worker(crash_at="bury.before:1")
        assert unlucky.child.wait(KILL_SECONDS)
        assert (await client.tags(run))[-1] == "failed"
        assert letters_in(broken) == []

        next_one = broken.start_worker(crash_at="bury.after:1")
        assert next_one.child.wait(KILL_SECONDS)
        assert (await client.tags(run))[-1] == "failed"
        assert letters_in(broken) == [("tries_exhausted", TRIES_MAX, "worker lost")]

        broken.start_worker()
        await check_story(client, run, watch)

    assert (await client.tags(run))[-2:] == ["failed", "sandbox_released"]
    assert letters_in(broken) == [("tries_exhausted", TRIES_MAX, "worker lost")]


@pytest.mark.settings(sandbox="none", lease_seconds="0.6")
async def test_an_operator_retries_a_dead_run_and_its_chat_goes_on(
    broken: BreakableStack, client: Rest
) -> None:
    run = await client.start("one two three")
    await lose_workers(broken, run, TRIES_MAX)
    broken.start_worker()
    await client.ended(run)

    said = dead_letters(broken, "retry", run.run_id, "--as", "ada")

    again = Run(str(retry_run_id(RunId(UUID(run.run_id)))), run.chat_id, run.session_id)
    assert again.run_id in said
    history = await client.ended(again)
    assert await client.status(again) == "completed"
    assert history[0]["data"]["retryOf"] == run.run_id
    assert (history[0]["actor"], history[0]["version"]) == ("ops:ada", 1)
    messages = await client.messages(run)
    assert [message["role"] for message in messages] == ["user", "assistant", "assistant"]
    assert parts_of(messages[-1], "text")[0]["text"] == "one two three"
    assert again.run_id in dead_letters(broken, "retry", run.run_id)
    assert dead_letters(broken, "list") == ""


def dead_letters(broken: BreakableStack, *arguments: str) -> str:
    done = run_script("dead_letters.py", *arguments, env=broken.details["env"])
    assert done.returncode == 0, done.stderr
    return done.stdout
