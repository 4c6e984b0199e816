"""What every book of dead letters does: the one on PostgreSQL, and its twin for other tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
import pytest

from runs_domain.dead_letters_port import Burial, DeadLetters, Reason
from runs_domain.ids import RunId
from runs_domain.ports import EventLog
from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.dead_letters import PostgresDeadLetters
from runs_domain.storage.identity import SystemClock, new_run_id
from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.memory_dead_letters import MemoryDeadLetters
from runs_domain.storage.postgres_log import open_log
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database

OPS = "ops:ada"


@dataclass
class Subject:
    log: EventLog
    letters: DeadLetters


@pytest.fixture(params=["memory", "postgres"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        log = MemoryEventLog(SECRETS, SystemClock())
        yield Subject(log, MemoryDeadLetters(log, SystemClock()))
        return
    async with on_postgres(request.getfixturevalue("database")) as (log, letters):
        yield Subject(log, letters)


@asynccontextmanager
async def on_postgres(database: Database) -> AsyncIterator[tuple[EventLog, PostgresDeadLetters]]:
    connection = ReconnectingConnection(Secret(database.url), name="test")
    try:
        async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
            yield log, PostgresDeadLetters(connection)
    finally:
        await connection.close()


async def a_run(log: EventLog) -> Run:
    run = Run(log)
    await run.do(run.request())
    return run


def burial(run_id: RunId, reason: Reason = "broken", error: str = "KeyError at a.py:1") -> Burial:
    return Burial(kind="run", id=run_id, reason=reason, last_error=error, tries=7)


async def test_a_letter_says_whose_run_why_and_how_often(subject: Subject) -> None:
    run = await a_run(subject.log)

    assert await subject.letters.bury(burial(run.run_id)) is True

    (letter,) = await subject.letters.letters_of(run.run_id)
    assert (letter.kind, letter.id, letter.account_id) == ("run", run.run_id, run.account_id)
    assert (letter.reason, letter.last_error, letter.tries) == ("broken", "KeyError at a.py:1", 7)
    assert (letter.closed_at, letter.closed_how, letter.retried_as) == (None, None, None)


@pytest.mark.parametrize("reason", ["broken", "tries_exhausted"])
async def test_burying_again_and_all_at_once_is_burying_once(
    subject: Subject, reason: Reason
) -> None:
    run = await a_run(subject.log)
    burials = [burial(run.run_id, reason, f"Error{n}") for n in range(8)]

    new = await asyncio.gather(*(subject.letters.bury(one) for one in burials))

    assert sum(new) == 1
    (letter,) = await subject.letters.letters_of(run.run_id)
    assert letter.last_error == f"Error{new.index(True)}"


async def test_a_run_that_the_log_does_not_have_gets_no_letter(subject: Subject) -> None:
    assert await subject.letters.bury(burial(new_run_id())) is False


async def test_a_broken_job_is_withheld_until_it_is_retried_and_breaks_again(
    subject: Subject,
) -> None:
    run, other = await a_run(subject.log), await a_run(subject.log)

    async def withheld() -> bool:
        heads = await subject.log.open_heads(limit=9)
        assert other.run_id in {head.run_id for head in heads}
        kept_back = run.run_id not in {head.run_id for head in heads}
        assert await subject.letters.is_withheld("run", run.run_id) is kept_back
        return kept_back

    assert await withheld() is False
    await subject.letters.bury(burial(run.run_id))
    assert await withheld() is True
    (letter,) = await subject.letters.letters_of(run.run_id)
    await subject.letters.close_retried(letter, by=OPS)
    assert await withheld() is False

    assert await subject.letters.bury(burial(run.run_id, error="Other")) is True
    assert await withheld() is True
    (letter,) = await subject.letters.letters_of(run.run_id)
    assert (letter.last_error, letter.closed_how, letter.closed_by) == ("Other", None, None)


@pytest.mark.parametrize("withheld", [True, False])
async def test_a_dropped_letter_says_whether_the_job_is_kept_back(
    subject: Subject, withheld: bool
) -> None:
    run = await a_run(subject.log)
    await subject.letters.bury(burial(run.run_id))
    (letter,) = await subject.letters.letters_of(run.run_id)

    assert await subject.letters.close_dropped(letter, by=OPS, withheld=withheld) is True
    assert await subject.letters.close_dropped(letter, by=OPS, withheld=not withheld) is False

    assert await subject.letters.is_withheld("run", run.run_id) is withheld
    assert bool(await subject.log.open_heads(limit=9)) is not withheld
    (closed,) = await subject.letters.letters_of(run.run_id)
    assert (closed.closed_how, closed.closed_by) == ("dropped", OPS)


async def test_a_run_of_exhausted_tries_is_not_withheld_and_its_letter_is_written_once_for_all(
    subject: Subject,
) -> None:
    run, again = await a_run(subject.log), new_run_id()
    await subject.letters.bury(burial(run.run_id, "tries_exhausted"))
    assert len(await subject.log.open_heads(limit=9)) == 1
    (letter,) = await subject.letters.letters_of(run.run_id)
    await subject.letters.close_retried(letter, by=OPS, retried_as=again)

    assert await subject.letters.bury(burial(run.run_id, "tries_exhausted")) is False

    (closed,) = await subject.letters.letters_of(run.run_id)
    assert (closed.closed_how, closed.closed_by, closed.retried_as) == ("retried", OPS, again)


async def test_the_first_retry_counts_also_over_a_drop(subject: Subject) -> None:
    run, again = await a_run(subject.log), new_run_id()
    await subject.letters.bury(burial(run.run_id, "tries_exhausted"))
    (letter,) = await subject.letters.letters_of(run.run_id)
    await subject.letters.close_dropped(letter, by=OPS, withheld=False)
    await subject.letters.close_retried(letter, by="ops:bob", retried_as=again)
    await subject.letters.close_retried(letter, by="ops:eve", retried_as=again)

    (closed,) = await subject.letters.letters_of(run.run_id)
    assert (closed.closed_how, closed.closed_by, closed.retried_as) == ("retried", "ops:bob", again)


async def test_lists_show_open_letters_or_all_the_oldest_first(database: Database) -> None:
    async with on_postgres(database) as (log, letters):
        runs = [await a_run(log) for _ in range(3)]
        for run, reason in zip(runs, ("broken", "tries_exhausted", "broken"), strict=True):
            await letters.bury(burial(run.run_id, reason))  # type: ignore[arg-type]
        (letter,) = await letters.letters_of(runs[0].run_id)
        await letters.close_dropped(letter, by=OPS, withheld=True)
        ids = [run.run_id for run in runs]

        assert [one.id for one in await letters.listed()] == ids[1:]
        assert [one.id for one in await letters.listed(closed_too=True)] == ids
        assert [one.id for one in await letters.listed(limit=1)] == ids[1:2]
        assert [one.id for one in await letters.listed(reason="broken")] == ids[2:]
        assert [one.id for one in await letters.listed(reason="broken", closed_too=True)] == [
            ids[0],
            ids[2],
        ]
        assert await letters.count_open() == 2


async def test_the_service_cannot_remove_a_letter(database: Database) -> None:
    async with on_postgres(database) as (log, letters):
        await letters.bury(burial((await a_run(log)).run_id))
    with (
        psycopg.connect(database.url) as service,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        service.execute("DELETE FROM dead_letters")
