"""Retry and drop: twice, by two at once, died half-way, or not possible."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import asdict, replace
from typing_extensions import override

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.dead_letters import GIVEN_UP, DeadLetterDesk
from runs_domain.dead_letters_port import Burial, DeadLetter, Reason
from runs_domain.errors import LetterRefused, QueueUnavailable, UnknownEvent
from runs_domain.handle import load
from runs_domain.ids import Attempt, RunId, retry_run_id
from runs_domain.ports import Append, Job, Recorded
from runs_domain.run import status_of
from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.memory_dead_letters import MemoryDeadLetters
from runs_domain.storage.memory_jobs import MemoryJobs
from tests.support.driving import SECRETS, TestClock
from tests.support.log_streams import Run

OPS = "ops:ada"


class Place:
    """A log with dead letters, and an operator's desk."""

    def __init__(self) -> None:
        self.clock = TestClock()
        self.log = MemoryEventLog(SECRETS, self.clock)
        self.letters = MemoryDeadLetters(self.log, self.clock)
        self.jobs = MemoryJobs()

    @property
    def desk(self) -> DeadLetterDesk:
        return DeadLetterDesk(self.log, self.letters, self.jobs, actor=OPS)

    async def dead_run(self, *, released: bool = True, **changes: Any) -> Run:
        run = Run(self.log)
        await run.do(run.request(**changes))
        await run.do(c.FailRun(attempt=Attempt(1), code="tries_exhausted", sentence="5 tries"))
        await self._bury(run, "tries_exhausted")
        if released:
            await run.do(c.RecordSandboxReleased(found=False))
        return run

    async def broken_run(self) -> Run:
        run = Run(self.log)
        await run.start()
        await self._bury(run, "broken")
        return run

    async def _bury(self, run: Run, reason: Reason) -> None:
        burial = Burial(kind="run", id=run.run_id, reason=reason, last_error="KeyError", tries=5)
        await self.letters.bury(burial)

    async def letter(self, run: Run) -> DeadLetter:
        (letter,) = await self.letters.letters_of(run.run_id)
        return letter

    async def retry(self, run: Run) -> RunId | None:
        return (await self.desk.retry(await self.letter(run))).retried_as

    async def drop(self, run: Run) -> str:
        return (await self.desk.drop(await self.letter(run))).sentence

    def sent(self) -> list[Job]:
        return list(self.jobs.waiting.values())


@pytest.fixture
def place() -> Place:
    return Place()


# ----------------------------------------------------------------------- retry of a dead run


async def test_a_retry_is_a_new_run_that_asks_for_the_same_in_the_same_chat(place: Place) -> None:
    run = await place.dead_run(metadata={"why": "weekly"}, artist_id="a-1", title="A title")
    old = await place.log.read(run.run_id)

    retried_as = await place.retry(run)

    assert retried_as is not None
    (new,) = await place.log.read(retried_as)
    assert isinstance(new.event, e.Requested)
    assert isinstance(old[0].event, e.Requested)
    changed = {"actor": OPS, "retry_of": str(run.run_id)}
    assert asdict(new.event) == asdict(old[0].event) | changed
    assert (new.actor, new.causation) == (OPS, f"{run.run_id}:2")
    assert (new.correlation, new.subject) == (old[0].correlation, run.account_id)
    account = str(run.account_id)
    assert place.sent() == [Job(kind="run", id=str(retried_as), account_id=account)]
    letter = await place.letter(run)
    assert (letter.closed_how, letter.closed_by) == ("retried", OPS)
    assert letter.retried_as == retried_as


async def test_two_operators_at_once_and_one_once_more_start_one_run(place: Place) -> None:
    run = await place.dead_run()
    letter = await place.letter(run)

    first, second = await asyncio.gather(place.desk.retry(letter), place.desk.retry(letter))
    third = await place.retry(run)

    assert first.retried_as == second.retried_as == third
    assert len(await place.log.heads_of_chat(run.chat_id)) == 2
    assert len(place.sent()) == 1


@pytest.mark.parametrize("dies_at", ["close", "send"])
async def test_a_retry_that_died_half_way_is_finished_by_the_next_or_by_the_reconciler(
    place: Place, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    run = await place.dead_run()

    with monkeypatch.context() as patch:
        if dies_at == "close":
            patch.setattr(place.letters, "close_retried", dies)
        else:
            patch.setattr(place.jobs, "send", dies)
        with pytest.raises(Died):
            await place.retry(run)
    (head,) = await place.log.open_heads(limit=9)
    assert head.run_id == retry_run_id(run.run_id), "the reconciler sends it"
    assert await place.retry(run) == head.run_id
    assert len(await place.log.heads_of_chat(run.chat_id)) == 2
    assert (await place.letter(run)).closed_how == "retried"


async def test_a_retry_that_died_half_way_is_finished_though_the_old_run_is_unreadable_by_now(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await place.dead_run()
    with monkeypatch.context() as patch:
        patch.setattr(place.letters, "close_retried", dies)
        with pytest.raises(Died):
            await place.retry(run)

    monkeypatch.setattr(place.log, "read", unreadable)

    assert await place.retry(run) == retry_run_id(run.run_id)
    assert (await place.letter(run)).closed_how == "retried"


async def test_while_redis_is_away_a_retry_says_who_will_send_it(place: Place) -> None:
    class Away(MemoryJobs):
        @override
        async def send(self, job: Job, **_: Any) -> bool:
            raise QueueUnavailable("away")

    run = await place.dead_run()
    place.jobs = Away()

    outcome = await place.desk.retry(await place.letter(run))

    assert "the reconciler will send it" in outcome.sentence
    assert (await place.letter(run)).closed_how == "retried"


async def test_a_retry_waits_until_the_chat_is_free(place: Place) -> None:
    run = await place.dead_run()
    other = Run(place.log, chat_id=run.chat_id, account_id=run.account_id)
    await other.do(other.request())

    with pytest.raises(LetterRefused, match="another run of its chat is live"):
        await place.retry(run)
    assert (await place.letter(run)).closed_at is None

    await other.do(c.RequestCancel(by="x", why="y"))
    assert await place.retry(run) is not None


async def test_a_run_that_still_has_its_sandbox_is_not_repeated_in_the_same_session(
    place: Place,
) -> None:
    run = await place.dead_run(released=False)

    with pytest.raises(LetterRefused, match="has yet to give back its sandbox"):
        await place.retry(run)

    await run.do(c.RecordSandboxReleased(found=False))
    assert await place.retry(run) is not None


async def test_erased_content_cannot_be_repeated(place: Place) -> None:
    run = await place.dead_run()
    place.log.data_key_rows.destroy(run.account_id)
    place.log.data_keys._kept.clear()

    with pytest.raises(LetterRefused, match="its content was erased"):
        await place.retry(run)
    assert (await place.letter(run)).closed_at is None


async def test_a_history_that_cannot_be_read_is_not_repeated(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await place.dead_run()
    letter = await place.letter(run)
    monkeypatch.setattr(place.log, "read", unreadable)

    with pytest.raises(LetterRefused, match="cannot read the run's history"):
        await place.desk.retry(letter)


async def test_a_letter_of_a_run_that_did_not_fail_is_not_repeated(place: Place) -> None:
    run = await place.dead_run()
    letter = await place.letter(run)
    other = Run(place.log)
    await other.finish()

    with pytest.raises(LetterRefused, match="no such failed run"):
        await place.desk.retry(replace(letter, id=other.run_id))


# ----------------------------------------------------------------------- retry of a broken job


async def test_a_broken_job_is_sent_again_and_the_run_goes_on(place: Place) -> None:
    run = await place.broken_run()
    assert await place.log.open_heads(limit=9) == ()

    assert await place.retry(run) is None

    account = str(run.account_id)
    job = Job(kind="run", id=str(run.run_id), account_id=account, cause="resent")
    assert place.sent() == [job]
    assert len(await place.log.open_heads(limit=9)) == 1
    await place.retry(run)
    assert place.sent() == [job]


# ------------------------------------------------------------------------------ drop


async def test_a_dropped_dead_run_is_closed_and_its_chat_was_free_all_along(place: Place) -> None:
    run = await place.dead_run()

    assert await place.drop(run) == "it is dropped"
    assert await place.drop(run) == "it was dropped before"

    assert (await place.letter(run)).closed_how == "dropped"
    assert place.sent() == []


async def test_a_drop_that_comes_after_a_retry_is_told_so(place: Place) -> None:
    run = await place.dead_run()
    letter = await place.letter(run)
    await place.retry(run)

    with pytest.raises(LetterRefused, match="it was retried before"):
        await place.drop(run)
    with pytest.raises(LetterRefused, match="a retry came first"):
        await place.desk.drop(letter)


async def test_a_drop_finds_a_retry_that_died_before_it_closed_the_letter(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await place.dead_run()

    with monkeypatch.context() as patch:
        patch.setattr(place.letters, "close_retried", dies)
        with pytest.raises(Died):
            await place.retry(run)

    with pytest.raises(LetterRefused, match="a retry came first"):
        await place.drop(run)
    assert (await place.letter(run)).retried_as == retry_run_id(run.run_id)


async def test_a_dropped_letter_can_be_retried_after_all(place: Place) -> None:
    run = await place.dead_run()
    await place.drop(run)

    assert await place.retry(run) == retry_run_id(run.run_id)
    assert (await place.letter(run)).closed_how == "retried"


async def test_a_dropped_broken_run_fails_frees_its_chat_and_gives_back_what_it_holds(
    place: Place,
) -> None:
    run = await place.broken_run()

    assert await place.drop(run) == "it is dropped, and the run has failed"

    stream = await place.log.read(run.run_id)
    failed, revoked = stream[-2:]
    assert isinstance(failed.event, e.Failed)
    assert (failed.event.code, failed.event.sentence) == ("internal", GIVEN_UP)
    assert isinstance(revoked.event, e.KeyRevoked)
    assert (failed.actor, failed.causation) == (OPS, f"{run.run_id}:4")
    assert [job.id for job in place.sent()] == [str(run.run_id)]
    assert len(await place.log.open_heads(limit=9)) == 1, "also if that job is lost"


async def test_a_dropped_broken_run_that_was_to_be_cancelled_is(place: Place) -> None:
    run = await place.broken_run()
    await run.do(c.RequestCancel(by="x", why="y"))

    await place.drop(run)

    assert status_of((await load(place.log, run.run_id)).state) == "cancelled"


async def test_a_broken_run_that_nobody_can_read_stays_as_it_is_and_is_not_sent(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await place.broken_run()
    with monkeypatch.context() as patch:
        patch.setattr(place.log, "read", unreadable)
        sentence = await place.drop(run)

    assert "this release cannot read the run's history" in sentence
    assert "keeps its chat" in sentence
    assert await place.log.open_heads(limit=9) == ()
    assert place.sent() == []
    await place.retry(run)
    assert len(await place.log.open_heads(limit=9)) == 1


async def test_a_broken_run_that_has_ended_is_left_where_it_is(place: Place) -> None:
    run = await place.broken_run()
    await run.do(c.FailRun(attempt=Attempt(1), code="internal", sentence="x"))

    assert "may not have given back its sandbox" in await place.drop(run)
    assert await place.log.open_heads(limit=9) == ()


async def test_a_worker_that_takes_the_run_meanwhile_is_told_of(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await place.broken_run()
    append = place.log.append

    async def late(one: Append) -> tuple[Recorded, ...]:
        monkeypatch.setattr(place.log, "append", append)
        await run.do(c.ResumeRun(attempt=Attempt(2), reason="lost"))
        return await append(one)

    monkeypatch.setattr(place.log, "append", late)

    with pytest.raises(LetterRefused, match="a worker has taken the run"):
        await place.drop(run)


class Died(BaseException):
    """The script's process ends here."""


async def dies(*_: Any, **__: Any) -> Any:
    raise Died


async def unreadable(*_: Any, **__: Any) -> Any:
    raise UnknownEvent("a tag of a newer release")
