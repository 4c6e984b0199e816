"""What every event log does: the real one on PostgreSQL, and its twin that other tests use."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest
from msgspec.structs import replace

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.errors import (
    AppendRefused,
    ChatBusy,
    ContentErased,
    HistoryCorrupt,
    KeyTaken,
    NoSuchPoint,
    UnknownEvent,
    VersionConflict,
)
from runs_domain.handle import append_of, empty, handle, load
from runs_domain.ids import AccountId, Attempt, KeyId, Position, RunId, Version
from runs_domain.ports import Stored
from runs_domain.run import fold, is_live, is_open, status_of
from runs_domain.settings import Secret
from runs_domain.storage.appender import Commit
from runs_domain.storage.identity import new_account_id, new_chat_id, new_run_id, uuid7
from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from runs_domain.storage.sealing import DATA_KEY_SECONDS_MAX
from tests.support import builders
from tests.support.log_streams import SECRETS, Run, ShiftedClock
from tests.support.servers import Database

CANARY = "canary-7d1f"


@dataclass
class KeyFacts:
    account_id: AccountId
    run_id: RunId
    expires_at: datetime
    revoked_at: datetime | None


@dataclass
class Subject:
    """A log, and ways to look at what it stored that callers do not have."""

    log: MemoryEventLog | PostgresEventLog
    commits: list[Commit]
    clock: ShiftedClock
    stored: Callable[[RunId], Awaitable[list[bytes]]]
    key: Callable[[KeyId], Awaitable[KeyFacts | None]]
    erase: Callable[[AccountId], Awaitable[None]]
    overwrite: Callable[[RunId, Version, str, bytes], Awaitable[None]]
    """Put another tag and other bytes in an event's place, as another release had written them."""


@pytest.fixture(params=["memory", "postgres"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield _in_memory()
        return
    database: Database = request.getfixturevalue("database")
    clock, commits = ShiftedClock(), list[Commit]()
    async with (
        await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as admin,
        open_log(Secret(database.url), SECRETS, clock, on_commit=commits.append) as log,
    ):
        yield _in_postgres(log, clock, commits, admin)


def _in_memory() -> Subject:
    clock, commits = ShiftedClock(), list[Commit]()
    log = MemoryEventLog(SECRETS, clock, on_commit=commits.append)

    async def stored(run_id: RunId) -> list[bytes]:
        return [row.state for row in log.stored(run_id)]

    async def key(key_id: KeyId) -> KeyFacts | None:
        found = log.keys.get(key_id)
        return found and KeyFacts(
            found.account_id, found.run_id, found.expires_at, found.revoked_at
        )

    async def erase(account_id: AccountId) -> None:
        log.data_key_rows.destroy(account_id)

    async def overwrite(run_id: RunId, version: Version, tag: str, state: bytes) -> None:
        rows = log._streams[run_id]
        rows[version - 1] = replace(rows[version - 1], tag=tag, state=state)

    return Subject(log, commits, clock, stored, key, erase, overwrite)


def _in_postgres(
    log: PostgresEventLog,
    clock: ShiftedClock,
    commits: list[Commit],
    admin: "psycopg.AsyncConnection[Any]",
) -> Subject:
    async def stored(run_id: RunId) -> list[bytes]:
        rows = await admin.execute(
            "SELECT state FROM stored_events WHERE originator_id = %s ORDER BY originator_version",
            [run_id],
        )
        return [state for (state,) in await rows.fetchall()]

    async def key(key_id: KeyId) -> KeyFacts | None:
        rows = await admin.execute(
            "SELECT account_id, run_id, expires_at, revoked_at FROM api_keys WHERE key_id = %s",
            [key_id],
        )
        row = await rows.fetchone()
        return row and KeyFacts(*row)

    async def erase(account_id: AccountId) -> None:
        await admin.execute(
            "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = now()"
            " WHERE account_id = %s",
            [account_id],
        )

    async def overwrite(run_id: RunId, version: Version, tag: str, state: bytes) -> None:
        await admin.execute(
            "UPDATE stored_events SET topic = %s, state = %s"
            " WHERE originator_id = %s AND originator_version = %s",
            [tag, state, run_id, version],
        )

    return Subject(log, commits, clock, stored, key, erase, overwrite)


# ------------------------------------------------------------------------------ append, read


async def test_what_is_appended_is_read_back_as_it_was(subject: Subject) -> None:
    run = Run(subject.log)
    written = [*await run.start(), *await run.do(builders.text_step(run.stream.state))]

    assert list(await subject.log.read(run.run_id)) == written
    assert [one.version for one in written] == [1, 2, 3, 4, 5]
    assert [one.position for one in written] == sorted({one.position for one in written})
    assert {(one.actor, one.subject, one.attempt) for one in written} == {
        ("worker", run.account_id, 1)
    }
    assert await subject.log.read(run.run_id, after=Version(3)) == tuple(written[3:])


async def test_events_of_one_append_share_its_time_and_times_never_go_back(
    subject: Subject,
) -> None:
    run, other = Run(subject.log), Run(subject.log)
    first = await run.start()
    second = await other.start()
    read = await subject.log.read(run.run_id)

    assert len({one.at for one in first[1:]}) == 1
    assert first[-1].at <= second[0].at
    assert [one.at for one in read] == sorted(one.at for one in read)
    assert read[0].at.tzinfo is not None


async def test_an_unknown_run_is_an_empty_stream_without_a_head(subject: Subject) -> None:
    run = Run(subject.log)

    assert await subject.log.read(run.run_id) == ()
    assert await subject.log.read_outline(run.run_id) == ()
    assert await subject.log.head(run.run_id) is None
    assert await subject.log.heads_of_chat(run.chat_id) == ()


async def test_an_outline_has_everything_but_content(subject: Subject) -> None:
    run = Run(subject.log)
    await run.finish(CANARY)
    full, outline = (
        await subject.log.read(run.run_id),
        await subject.log.read_outline(run.run_id),
    )

    assert [replace(one, event=e.Started()) for one in outline] == [
        replace(one, event=e.Started()) for one in full
    ]
    assert CANARY in str(full)
    assert CANARY not in str(outline)
    assert status_of(fold([one.event for one in outline])) == "completed"


async def test_an_append_needs_an_event(subject: Subject) -> None:
    run = Run(subject.log)
    append = replace(run.decided(run.request()), events=())

    with pytest.raises(AppendRefused):
        await subject.log.append(append)


async def test_each_commit_is_announced_with_its_runs_and_last_position(subject: Subject) -> None:
    run = Run(subject.log)
    written = await run.start()

    assert subject.commits == [
        Commit((run.run_id,), written[0].position),
        Commit((run.run_id,), written[-1].position),
    ]
    with pytest.raises(VersionConflict):
        await subject.log.append(append_of(empty(run.run_id), (written[0].event,), run.context))
    assert len(subject.commits) == 2


async def test_an_event_about_another_account_than_its_run_s_is_refused(subject: Subject) -> None:
    run = Run(subject.log)
    append = run.decided(run.request())
    stray = replace(append, context=replace(append.context, subject=new_account_id()))

    with pytest.raises(AppendRefused):
        await subject.log.append(stray)


# ------------------------------------------------------------------------------ refusals


async def test_a_stale_append_of_many_events_keeps_nothing_and_loses_nothing(
    subject: Subject,
) -> None:
    run = Run(subject.log)
    await run.start()
    stale = run.decided(c.RequestCancel(by="key:1", why="asked"), c.CancelRun(attempt=Attempt(1)))
    await run.do(c.ResumeRun(attempt=Attempt(2), reason="lost"))
    before = await subject.log.read(run.run_id)

    with pytest.raises(VersionConflict) as refused:
        await subject.log.append(stale)

    assert (refused.value.expected, refused.value.current) == (4, 5)
    assert await subject.log.read(run.run_id) == before
    await run.do(c.RequestCancel(by="key:1", why="asked"))
    assert await _heads_equal_folds(subject, [run])


async def test_an_append_that_would_leave_a_hole_is_refused(subject: Subject) -> None:
    run = Run(subject.log)
    await run.start()
    ahead = replace(
        run.decided(c.ResumeRun(attempt=Attempt(2), reason="lost")), expected_version=Version(9)
    )

    with pytest.raises(VersionConflict):
        await subject.log.append(ahead)
    assert len(await subject.log.read(run.run_id)) == 4


async def test_an_append_that_follows_another_history_is_refused(subject: Subject) -> None:
    run = Run(subject.log)
    await run.start()
    forked = replace(run.decided(c.ResumeRun(attempt=Attempt(2), reason="lost")), prev="0" * 64)

    with pytest.raises(HistoryCorrupt):
        await subject.log.append(forked)
    assert len(await subject.log.read(run.run_id)) == 4


async def test_of_many_at_once_at_one_version_exactly_one_wins(subject: Subject) -> None:
    run = Run(subject.log)
    await run.start()
    append = run.decided(c.ResumeRun(attempt=Attempt(2), reason="lost"))
    results = await asyncio.gather(
        *(subject.log.append(append) for _ in range(20)), return_exceptions=True
    )

    assert sum(isinstance(one, tuple) for one in results) == 1
    assert sum(isinstance(one, VersionConflict) for one in results) == 19
    assert len(await subject.log.read(run.run_id)) == 5


async def test_I_25_one_chat_has_one_live_run(subject: Subject) -> None:
    chat = new_chat_id()
    runs = [Run(subject.log, chat_id=chat) for _ in range(10)]
    results = await asyncio.gather(*(run.do(run.request()) for run in runs), return_exceptions=True)

    assert sum(isinstance(one, tuple) for one in results) == 1
    assert sum(isinstance(one, ChatBusy) for one in results) == 9

    (holder,) = (run for run in runs if run.stream.state.version)
    await holder.do(c.RequestCancel(by="key:1", why="asked"))
    waiting = next(run for run in runs if run is not holder)
    await waiting.do(waiting.request())
    heads = await subject.log.heads_of_chat(chat)
    assert [head.run_id for head in heads] == [holder.run_id, waiting.run_id]
    assert [head.live for head in heads] == [False, True]


async def test_I_26_a_busy_chat_and_a_lost_race_are_different_errors(subject: Subject) -> None:
    run = Run(subject.log)
    await run.do(run.request())
    rival = Run(subject.log, chat_id=run.chat_id)

    with pytest.raises(ChatBusy):
        await rival.do(rival.request())
    again = append_of(empty(run.run_id), (run.stream.state.requested,), run.context)  # type: ignore[arg-type]
    with pytest.raises(VersionConflict):
        await subject.log.append(again)


# ------------------------------------------------------------------------------ keys, heads


async def test_the_key_row_changes_with_the_events(subject: Subject) -> None:
    run = Run(subject.log)
    written = await run.start()
    minted = await subject.key(run.key_id)

    assert minted == KeyFacts(
        run.account_id, run.run_id, written[-1].at + timedelta(seconds=900), None
    )
    await run.do(builders.text_step(run.stream.state))
    ended = await run.do(c.CompleteRun(attempt=Attempt(1)))
    revoked = await subject.key(run.key_id)
    assert revoked is not None
    assert revoked.revoked_at == ended[-1].at


async def test_a_used_key_refuses_its_append_alone(subject: Subject) -> None:
    first, second, third = Run(subject.log), Run(subject.log), Run(subject.log)
    await first.start()
    await second.do(second.request())
    mint, row = first.mint()
    taken = second.decided(builders.provisioned(), mint, builders.start(), mint=row)
    same_mac = replace(taken, mint=replace(row, key_id=KeyId(uuid7())))
    results = await asyncio.gather(
        subject.log.append(taken),
        subject.log.append(third.decided(third.request())),
        return_exceptions=True,
    )

    assert isinstance(results[0], KeyTaken)
    assert isinstance(results[1], tuple)
    with pytest.raises(KeyTaken):
        await subject.log.append(same_mac)
    assert len(await subject.log.read(second.run_id)) == 1
    (found,) = [await subject.key(first.key_id)]
    assert found is not None
    assert found.run_id == first.run_id


async def test_revoking_does_not_touch_a_key_of_another_account(subject: Subject) -> None:
    victim, attacker = Run(subject.log), Run(subject.log)
    await victim.start()
    await attacker.do(attacker.request())
    await subject.log.append(attacker.append_of(e.KeyRevoked(key_id=victim.key_id)))
    key = await subject.key(victim.key_id)

    assert key is not None
    assert key.revoked_at is None


async def test_invariant_8_heads_equal_the_fold_of_their_streams(subject: Subject) -> None:
    runs = [Run(subject.log) for _ in range(6)]
    queued, started, cancelled, completed, failed, resumed = runs
    await queued.do(queued.request())
    await started.start()
    await cancelled.do(cancelled.request())
    await cancelled.do(c.RequestCancel(by="key:1", why="asked"))
    await completed.finish()
    await failed.start()
    await failed.do(c.FailRun(attempt=Attempt(1), code="internal", sentence="It broke"))
    await resumed.start()
    await resumed.do(c.ResumeRun(attempt=Attempt(2), reason="lost"))

    assert await _heads_equal_folds(subject, runs)
    statuses = {(await subject.log.head(run.run_id)).status for run in runs}  # type: ignore[union-attr]
    assert statuses == {"queued", "running", "cancelled", "completed", "failed"}


async def _heads_equal_folds(subject: Subject, runs: list[Run]) -> bool:
    for run in runs:
        stream = await subject.log.read(run.run_id)
        state = fold([one.event for one in stream])
        head = await subject.log.head(run.run_id)
        assert head is not None
        assert head.version == state.version == stream[-1].version
        assert (head.status, head.live, head.open) == (
            status_of(state),
            is_live(state),
            is_open(state),
        )
        assert head.head_hash == stream[-1].hash
        assert head.requested_position == stream[0].position
        assert head.updated_at == stream[-1].at
        assert (head.account_id, head.chat_id) == (run.account_id, run.chat_id)
    return True


async def test_open_heads_are_given_in_pages_and_ended_runs_leave_them(subject: Subject) -> None:
    runs = [Run(subject.log) for _ in range(5)]
    for run in runs:
        await run.do(run.request())
    gone = Run(subject.log)
    await gone.finish()
    first = await subject.log.open_heads(limit=3)
    rest = await subject.log.open_heads(limit=3, after=first[-1].run_id)

    assert [head.run_id for head in (*first, *rest)] == sorted(run.run_id for run in runs)
    assert await subject.log.open_heads(limit=3, min_age_seconds=3600.0) == ()


async def test_an_ended_run_is_open_until_its_sandbox_is_released(subject: Subject) -> None:
    """So the reconciler brings a worker to what the last one left standing."""
    run = Run(subject.log)
    await run.start()
    await run.do(c.FailRun(attempt=Attempt(1), code="internal", sentence="broken"))
    (head,) = await subject.log.open_heads(limit=3)
    assert (head.run_id, head.live) == (run.run_id, False)

    await run.do(c.RecordSandboxReleased(found=False))
    assert await subject.log.open_heads(limit=3) == ()


# ------------------------------------------------------------------------------ hashes, content


async def test_each_event_holds_the_hash_of_the_bytes_before_it(subject: Subject) -> None:
    run = Run(subject.log)
    await run.finish()
    prev = hashlib.sha256(str(run.run_id).encode()).hexdigest()
    stream = await subject.log.read(run.run_id)
    for state, one in zip(await subject.stored(run.run_id), stream, strict=True):
        assert msgspec.json.decode(state)["prev"] == one.prev == prev
        prev = one.hash
        assert prev == hashlib.sha256(state).hexdigest()


async def test_the_envelope_is_stored_beside_the_event(subject: Subject) -> None:
    run = Run(subject.log)
    (one,) = await run.do(run.request(title=CANARY))
    (state,) = await subject.stored(run.run_id)
    stored = msgspec.json.decode(state)

    assert list(stored) == [
        *("type", "runId", "version", "at", "actor", "subject", "correlation", "causation"),
        *("attempt", "prev", "data", "sealed"),
    ]
    assert stored["type"] == one.type == "run.requested.v1"
    assert datetime.fromisoformat(stored["at"]) == one.at
    assert stored["data"]["accountId"] == str(run.account_id)
    assert not set(stored["data"]) & {"title", "messages", "metadata"}


async def test_a_stored_read_gives_each_event_as_it_stands_with_its_content_opened(
    subject: Subject,
) -> None:
    run = Run(subject.log)
    await run.finish(CANARY)
    states = [msgspec.json.decode(state) for state in await subject.stored(run.run_id)]
    raw = await subject.log.read_stored(run.run_id)

    for one, state, known in zip(raw, states, await subject.log.read(run.run_id), strict=True):
        data = msgspec.json.decode(one.data)
        assert data.items() >= state["data"].items()
        assert data == msgspec.json.decode(msgspec.json.encode(known.event))
        names = ("version", "position", "type", "at", "actor", "subject", "attempt", "prev", "hash")
        assert [getattr(one, name) for name in names] == [getattr(known, name) for name in names]
    assert CANARY in str(raw)
    assert await subject.log.read_stored(run.run_id, after=Version(2)) == raw[2:]


async def test_a_stored_read_comes_in_pages_for_those_who_say_how_long(subject: Subject) -> None:
    run = Run(subject.log)
    await run.finish()
    whole = await subject.log.read_stored(run.run_id)
    for limit in (1, 2, len(whole), 100):
        pages: list[Stored] = []
        while page := await subject.log.read_stored(
            run.run_id, after=Version(len(pages)), limit=limit
        ):
            assert len(page) <= limit
            pages += page
        assert tuple(pages) == whole
    assert await subject.log.read_stored(new_run_id(), limit=1) == ()


async def test_an_outline_ends_where_it_is_told_to_and_looks_no_further(subject: Subject) -> None:
    """Not even at a tag of a newer release."""
    run = Run(subject.log)
    requested, *_ = await run.start()
    whole = await subject.log.read_outline(run.run_id)
    last = (await subject.stored(run.run_id))[3]
    newer = last.replace(b"run.started.v1", b"run.started.v9")
    await subject.overwrite(run.run_id, Version(4), "run.started.v9", newer)

    assert await subject.log.read_outline(run.run_id, at=Version(3)) == whole[:3]
    assert await subject.log.read_outline(run.run_id, at=requested.at) == whole[:1]
    for beyond in (Version(4), whole[3].at):
        with pytest.raises(UnknownEvent, match=f"event 4 of run {run.run_id}: .*run.started.v9"):
            await subject.log.read_outline(run.run_id, at=beyond)
    for nowhere in (Version(5), requested.at - timedelta(microseconds=1)):
        with pytest.raises(NoSuchPoint):
            await subject.log.read_outline(run.run_id, at=nowhere)
    with pytest.raises(NoSuchPoint):
        await subject.log.read_outline(new_run_id(), at=Version(1))


async def test_a_stored_event_says_that_its_content_was_erased(subject: Subject) -> None:
    run = Run(subject.log)
    await run.finish(CANARY)
    assert not any(one.erased for one in await subject.log.read_stored(run.run_id))

    await subject.erase(run.account_id)
    subject.clock.ahead_seconds += DATA_KEY_SECONDS_MAX + 1

    stored = await subject.log.read_stored(run.run_id)
    read = await subject.log.read(run.run_id)
    assert [one.erased for one in stored] == [one.erased for one in read]
    assert [one.version for one in stored if one.erased] == [1, 5]
    assert CANARY not in str(stored)


async def test_a_stored_read_knows_no_release(subject: Subject) -> None:
    """A field that nobody knows, an old tag, and a tag that only a newer release knows."""
    run = Run(subject.log)
    await run.start()
    request, *rest = await subject.stored(run.run_id)
    old = request.replace(b"run.requested.v1", b"run.requested.v0")
    old = old.replace(b'"data":{', b'"data":{"who":"from before",')
    newer = rest[0].replace(b"run.provisioned.v1", b"run.provisioned.v9")
    await subject.overwrite(run.run_id, Version(1), "run.requested.v0", old)
    await subject.overwrite(run.run_id, Version(2), "run.provisioned.v9", newer)

    first, second, *_ = await subject.log.read_stored(run.run_id)
    assert (first.type, second.type) == ("run.requested.v0", "run.provisioned.v9")
    data = msgspec.json.decode(first.data)
    assert data["who"] == "from before"
    assert data["messages"]
    assert first.hash == hashlib.sha256(old).hexdigest()
    with pytest.raises(UnknownEvent):
        await subject.log.read(run.run_id)


async def test_invariant_6_content_is_nowhere_in_what_is_stored(subject: Subject) -> None:
    run = Run(subject.log)
    await run.do(
        run.request(
            title=CANARY,
            messages=(builders.user_message(CANARY),),
            metadata={"note": CANARY},
        )
    )
    mint, row = run.mint()
    await run.do(builders.provisioned(), mint, builders.start(), mint=row)
    await run.do(builders.tool_step(run.stream.state))
    (call,) = run.stream.state.open_calls
    await run.do(c.StartTools(attempt=Attempt(1), call_ids=(call,)))
    await run.do(builders.tool_result(run.stream.state, call, output={"stdout": CANARY}))
    stored = b"".join(await subject.stored(run.run_id))

    assert CANARY in str(await subject.log.read(run.run_id))
    assert CANARY.encode() not in stored
    assert row.mac not in stored
    assert row.mac.hex().encode() not in stored


async def test_equal_content_is_not_stored_as_equal_bytes(subject: Subject) -> None:
    run = Run(subject.log)
    twin = Run(subject.log, account_id=run.account_id)
    await run.do(run.request())
    await twin.do(twin.request())
    sealed = [
        msgspec.json.decode((await subject.stored(one.run_id))[0])["sealed"] for one in (run, twin)
    ]

    assert sealed[0] != sealed[1]


async def test_an_erased_account_s_content_is_gone_and_its_chain_holds(subject: Subject) -> None:
    run, bystander = Run(subject.log), Run(subject.log)
    await run.finish(CANARY)
    await bystander.finish(CANARY)
    before = await subject.log.read(run.run_id)
    await subject.erase(run.account_id)
    subject.clock.ahead_seconds += DATA_KEY_SECONDS_MAX + 1
    after = await subject.log.read(run.run_id)

    assert [(one.hash, one.prev) for one in after] == [(one.hash, one.prev) for one in before]
    assert CANARY not in str(after)
    assert {one.type for one in after if one.erased} == {
        "run.requested.v1",
        "run.message_persisted.v1",
    }
    assert status_of(fold([one.event for one in after])) == "completed"
    untouched = await subject.log.read(bystander.run_id)
    assert CANARY in str(untouched)
    assert not any(one.erased for one in untouched)


async def test_an_erased_account_s_run_can_end_and_no_new_one_begins(subject: Subject) -> None:
    run = Run(subject.log)
    await run.start()
    await run.do(builders.tool_step(run.stream.state))
    await subject.erase(run.account_id)
    subject.clock.ahead_seconds += DATA_KEY_SECONDS_MAX + 1
    await run.do(c.RequestCancel(by="key:1", why="asked"))
    await run.do(c.CancelRun(attempt=Attempt(1)))
    stored = b"".join(await subject.stored(run.run_id))

    assert stored.endswith(b"}")
    assert (await subject.log.head(run.run_id)).status == "cancelled"  # type: ignore[union-attr]
    late = [
        one
        for one in await subject.log.read(run.run_id)
        if isinstance(one.event, e.MessagePersisted)
    ][-1]
    assert late.erased
    assert late.event.parts == ()  # type: ignore[union-attr]
    another = Run(subject.log, account_id=run.account_id)
    with pytest.raises(ContentErased):
        await another.do(another.request())


# ------------------------------------------------------------------------------ follow, handle


async def test_followers_get_every_event_in_order_and_wait_for_more(subject: Subject) -> None:
    run = Run(subject.log)
    await run.start()
    async with aclosing(subject.log.follow(Position(0))) as follower:
        seen = [*await anext(follower)]
        waiting = asyncio.ensure_future(anext(follower))
        await run.do(builders.text_step(run.stream.state))
        seen += await asyncio.wait_for(waiting, timeout=10)
    async with aclosing(subject.log.follow(seen[2].position)) as follower:
        rest = await anext(follower)

    assert seen == list(await subject.log.read(run.run_id))
    assert list(rest) == seen[3:]


async def test_handle_decides_again_when_somebody_was_faster(subject: Subject) -> None:
    run = Run(subject.log)
    await run.start()
    stale = run.stream
    await run.do(builders.text_step(run.stream.state))
    cancel = c.RequestCancel(by="key:1", why="asked")
    handled = await handle(subject.log, run.run_id, cancel, run.context, stream=stale)

    assert [one.version for one in handled.recorded] == [6]
    assert handled.stream == await load(subject.log, run.run_id)
    again = await handle(subject.log, run.run_id, cancel, run.context)
    assert again.recorded == ()


async def test_many_streams_at_once_all_land(subject: Subject) -> None:
    runs = [Run(subject.log, account_id=new_account_id()) for _ in range(100)]
    await asyncio.gather(*(run.finish() for run in runs))

    assert await _heads_equal_folds(subject, runs)
    positions = [one.position for run in runs for one in await subject.log.read(run.run_id)]
    assert len(set(positions)) == 800
