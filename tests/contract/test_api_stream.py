"""GET stream: every chunk once, in order, from the live stream or from the log, up to the end."""

import asyncio
from typing import Any

import msgspec
import pytest

from runs_api import reader
from runs_domain import commands as c
from runs_domain import model_port as m
from runs_domain.frames import Finish, FinishStep, decode, encode
from runs_domain.ids import Attempt, assistant_message_id
from runs_domain.stream_reader import StreamReader
from tests.support.api import MINE, Api
from tests.support.asgi import Answer, Exchange
from tests.support.driven import Driven
from tests.support.waiting import until

DONE = b"data: [DONE]\n\n"
FROM_START = "?startIndex=0"


def chunks(body: bytes) -> dict[int, bytes]:
    """Chunk by index; the body must be whole frames."""
    assert body.endswith(b"\n\n") or not body
    found: dict[int, bytes] = {}
    for frame in body.split(b"\n\n")[:-1]:
        if frame.startswith(b"id: "):
            first, data = frame.split(b"\n")
            index = int(first.removeprefix(b"id: "))
            assert index not in found
            found[index] = data.removeprefix(b"data: ")
    assert list(found) == sorted(found)
    return found


async def whole(run: Driven, body: bytes, first: int = 0) -> None:
    """The body is the committed stream from `first` on, to the end."""
    expected = await run.frames()
    assert chunks(body) == dict(enumerate(expected[first:], start=first))
    assert body.endswith(DONE)
    if first == 0:
        told = StreamReader().read(map(decode, expected))
        assert told.finished


def gone(answer: Answer, run: Driven) -> None:
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["x-workflow-run-id"] == str(run.run_id)


async def waits(stream: Exchange, api: Api, run: Driven) -> None:
    """The reader has looked at what there is now, and waits for more."""
    await until(lambda: api.chunks.watched(run.run_id))
    before = api.chunks.reads
    await api.chunks.wake(run.run_id)
    await until(lambda: api.chunks.reads > before)
    assert not stream.task.done()


@pytest.mark.parametrize(
    "path", ["/api/chat/{chat}/stream", "/api/chat/{run}/stream", "{own}/stream"]
)
async def test_I_18_I_19_a_run_is_followed_from_the_202_to_its_finish(path: str) -> None:
    """By chat id or run id; while it is queued the answer is 200 and waits."""
    api = Api()
    run = await api.start()
    target = path.format(chat=run.chat_id, run=run.run_id, own=run.path)
    async with api.stream(target) as (status, headers, stream):
        assert status == 200
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-cache"
        assert headers["x-accel-buffering"] == "no"
        assert headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert headers["x-workflow-run-id"] == str(run.run_id)
        assert headers["x-workflow-stream-tail-index"] == "-1"
        await run.begin()
        recorder = await run.recorder()
        await run.stream_text(recorder, "one ")
        so_far = await stream.read_until(b'"one "}\n\n')
        await run.stream_text(recorder, "two")
        so_far += await stream.read_until(b'"two"}\n\n')
        await run.persist(recorder)
        await run.do(c.CompleteRun(attempt=run.attempt))
        await whole(run, so_far + await stream.read_all())


async def endings(run: Driven, how: str) -> None:
    if how == "completed":
        await run.complete("a b c")
    elif how == "failed before the first chunk":
        await run.begin()
        await run.do(
            c.FailRun(attempt=run.attempt, code="model_rejected", sentence="The model refused")
        )
    elif how == "failed in the middle":
        await run.begin()
        await run.say("well", reason="tool-calls")
        await run.do(
            c.FailRun(attempt=run.attempt, code="model_unavailable", sentence="The model is away")
        )
    elif how == "cancelled while queued":
        await run.do(c.RequestCancel(by="me", why="test"))
    else:
        await run.begin()
        await run.do(c.RequestCancel(by="me", why="test"))
        await run.do(c.CancelRun(attempt=run.attempt))


@pytest.mark.parametrize("sends", [True, False], ids=["live chunks", "log only"])
@pytest.mark.parametrize(
    "how",
    [
        "completed",
        "failed before the first chunk",
        "failed in the middle",
        "cancelled while queued",
        "cancelled while running",
    ],
)
async def test_I_20_I_21_every_end_is_told_with_finish_and_done(how: str, sends: bool) -> None:
    """To a reader that was there, also if no chunk ever reached Redis (invariant 7)."""
    api = Api()
    run = await api.start()
    run.sends = sends
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await waits(stream, api, run)
        await endings(run, how)
        api.clock.ahead += reader.HEAD_SECONDS
        await api.chunks.wake(run.run_id)
        await whole(run, await stream.read_all())
    await whole(run, (await api.get(f"{run.path}/stream{FROM_START}")).body)


@pytest.mark.parametrize("reason", ["stop", "error", "other"])
def test_the_reader_knows_the_last_chunk_when_it_sees_it(reason: Any) -> None:
    """So that [DONE] follows at once, without a look at the log."""
    assert encode(Finish(reason)).startswith(reader.FINISH_PREFIX)
    assert not encode(FinishStep()).startswith(reader.FINISH_PREFIX)


async def test_after_the_end_each_position_gets_the_rest_or_204() -> None:
    """Never an empty 200."""
    api = Api()
    run = await api.start()
    await run.complete("a b c")
    length = len(await run.frames())
    gone(await api.get(f"{run.path}/stream"), run)
    gone(await api.get(f"/api/chat/{run.chat_id}/stream"), run)
    for first in range(length):
        await whole(run, (await api.get(f"{run.path}/stream?startIndex={first}")).body, first)
        answer = await api.get(f"{run.path}/stream", MINE | {"last-event-id": str(first)})
        if first + 1 < length:
            await whole(run, answer.body, first + 1)
            assert answer.headers["x-workflow-stream-tail-index"] == str(length - 1)
        else:
            gone(answer, run)
    for far in (length, length + 1, 10**9):
        gone(await api.get(f"{run.path}/stream?startIndex={far}"), run)


async def test_I_33_a_negative_position_counts_from_the_end() -> None:
    """Resolved once, at the request; more than there is means all of it."""
    api = Api()
    run = await api.start()
    await run.complete("a b c")
    length = len(await run.frames())
    for back in (1, 3, length, length + 1, 10**9):
        body = (await api.get(f"{run.path}/stream?startIndex=-{back}")).body
        await whole(run, body, max(0, length - back))


async def test_a_live_run_is_resumed_in_the_middle_and_from_the_end() -> None:
    """From `startIndex`, which wins over Last-Event-ID; a place ahead waits for its chunk."""
    api = Api()
    run = await api.start()
    await run.begin()
    recorder = await run.recorder()
    await run.stream_text(recorder, "one")
    length = await api.chunks.next_index(run.run_id) or 0
    for query, headers, first in (
        ("?startIndex=2", {"last-event-id": "0"}, 2),
        ("", {"last-event-id": "0"}, 1),
        ("?startIndex=-1", {}, length - 1),
    ):
        async with api.stream(f"{run.path}/stream{query}", MINE | headers) as (_, told, stream):
            assert told["x-workflow-stream-tail-index"] == str(length - 1)
            assert list(chunks(await stream.read_until(b'"one"}\n\n'))) == list(
                range(first, length)
            )
    async with api.stream(f"{run.path}/stream?startIndex={length + 1}") as (_, _, stream):
        await run.stream_text(recorder, "two")
        await run.stream_text(recorder, "three")
        assert list(chunks(await stream.read_until(b'"three"}\n\n'))) == [length + 1]


@pytest.mark.parametrize("beyond", [0, 1, 99_999])
@pytest.mark.parametrize("sends", [True, False], ids=["live chunks", "log only"])
async def test_a_reader_beyond_the_end_of_a_run_is_told_so(beyond: int, sends: bool) -> None:
    """It waits while the run is live; an empty 200 would say that all is well."""
    ended = Api()
    twin = await ended.start()
    await twin.complete("a b c")
    length = len(await twin.frames())
    api = Api()
    run = await api.start()
    run.sends = sends
    async with api.stream(f"{run.path}/stream?startIndex={length + beyond}") as (_, _, stream):
        await waits(stream, api, run)
        await run.complete("a b c")
        api.clock.ahead += reader.HEAD_SECONDS
        await api.chunks.wake(run.run_id)
        body = await stream.read_all()
    assert not chunks(body)
    assert [part["type"] for part in errors_in(body)] == ["error", "finish"]
    assert body.endswith(DONE)


@pytest.mark.parametrize("value", ["x", "", "1.5", "+1", "--1", "-", "1e3", "٣", "9" * 13])
async def test_a_position_that_is_no_integer_is_a_400(value: str) -> None:
    """In the envelope, naming the parameter."""
    api = Api()
    run = await api.start()
    answer = await api.get(f"{run.path}/stream?startIndex={value}")
    assert (answer.status, answer.json["missing_fields"]) == (400, ["startIndex"])


@pytest.mark.parametrize("value", ["x", "-1"])
async def test_a_last_event_id_of_nobodys_is_a_400(value: str) -> None:
    """We never gave that id out."""
    api = Api()
    run = await api.start()
    answer = await api.get(f"{run.path}/stream", MINE | {"last-event-id": value})
    assert answer.status == 400


async def test_several_readers_each_get_all_of_it() -> None:
    """One that comes late, too."""
    api = Api()
    run = await api.start()
    await run.begin()

    async def read_all() -> bytes:
        async with api.stream(f"{run.path}/stream{FROM_START}") as (_, _, stream):
            return await stream.read_all()

    early = [asyncio.create_task(read_all()) for _ in range(5)]
    recorder = await run.recorder()
    await run.stream_text(recorder, "one")
    late = asyncio.create_task(read_all())
    await run.persist(recorder)
    await run.do(c.CompleteRun(attempt=run.attempt))
    for body in await asyncio.gather(*early, late):
        await whole(run, body)


async def test_invariant_11_L_02_a_reader_that_leaves_changes_nothing() -> None:
    """No event, no push, no job; the application is done with it at once."""
    api = Api()
    run = await api.start()
    await run.begin()
    appends, jobs = api.log.appends, dict(api.jobs.waiting)
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await waits(stream, api, run)
    assert (api.log.appends, api.jobs.waiting, api.cancels.pushed) == (appends, jobs, [])
    assert not api.chunks.watched(run.run_id)


async def test_a_slow_reader_of_a_long_history_lets_others_have_their_turn() -> None:
    """The whole log in one go would hold the process."""
    api = Api()
    run = await api.start()
    await run.complete(" ".join(["word"] * (reader.BATCH_FRAMES * 3)))
    async with api.stream(f"{run.path}/stream{FROM_START}") as (_, _, stream):
        first = await stream.read()
        assert len(chunks(first)) == reader.BATCH_FRAMES
        await whole(run, first + await stream.read_all())


async def test_heads_are_looked_up_once_a_second_for_all_readers_of_a_run() -> None:
    """However many wait."""
    api = Api()
    run = await api.start()
    streams = [api.stream(f"{run.path}/stream") for _ in range(20)]
    opened = [await stream.__aenter__() for stream in streams]
    await until(lambda: api.chunks.reads >= len(streams))
    before = api.log.head_looks
    api.clock.ahead += reader.HEAD_SECONDS
    reads = api.chunks.reads
    await api.chunks.wake(run.run_id)
    await until(lambda: api.chunks.reads >= reads + len(streams))
    assert api.log.head_looks <= before + 1
    for stream, _ in zip(streams, opened, strict=True):
        await stream.__aexit__(None, None, None)


async def test_draining_ends_a_stream_after_a_whole_frame_without_done() -> None:
    """The client sees a lost connection and resumes elsewhere."""
    api = Api()
    run = await api.start()
    await run.begin()
    recorder = await run.recorder()
    await run.stream_text(recorder, "one")
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        body = await stream.read_until(b'"one"}\n\n')
        api.draining.set()
        body += await stream.read_all()
    assert DONE not in body
    assert chunks(body)


async def test_a_quiet_stream_is_kept_alive_by_comments() -> None:
    """No proxy closes it, no client sees them."""
    api = Api()
    run = await api.start()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await waits(stream, api, run)
        for _ in range(2):
            api.clock.ahead += reader.KEEP_ALIVE_SECONDS
            await api.chunks.wake(run.run_id)
            assert await stream.read() == b": keep-alive\n\n"
    assert reader.KEEP_ALIVE_SECONDS + reader.HEAD_SECONDS < 15


async def test_a_stream_ends_when_its_key_is_revoked() -> None:
    """At the next keep-alive; the run goes on."""
    api = Api()
    run = await api.start()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await waits(stream, api, run)
        del api.keys.known["mine"]
        api.clock.ahead += reader.KEEP_ALIVE_SECONDS
        await api.chunks.wake(run.run_id)
        assert await stream.read_all() == b""


async def test_doubt_about_the_key_ends_no_stream() -> None:
    """It is asked again at the next keep-alive."""
    api = Api()
    run = await api.start()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await waits(stream, api, run)
        api.keys.down = True
        api.clock.ahead += reader.KEEP_ALIVE_SECONDS
        await api.chunks.wake(run.run_id)
        assert await stream.read() == b": keep-alive\n\n"


async def test_without_redis_the_stream_follows_the_log() -> None:
    """Slower, and complete."""
    api = Api()
    run = await api.start()
    run.sends = False
    api.chunks.down = True
    async with api.stream(f"{run.path}/stream") as (status, _, stream):
        assert status == 200
        await run.begin()
        await run.say("one", reason="tool-calls")
        api.clock.ahead += reader.HEAD_SECONDS
        await api.chunks.wake(run.run_id)
        so_far = await stream.read_until(b'"one"}\n\n')
        await run.say("two")
        await run.do(c.CompleteRun(attempt=run.attempt))
        api.clock.ahead += reader.HEAD_SECONDS
        await api.chunks.wake(run.run_id)
        await whole(run, so_far + await stream.read_all())


async def test_I_24_a_tail_that_cannot_be_known_is_a_503() -> None:
    """A negative position needs the live end; a guess would lose chunks."""
    api = Api()
    run = await api.start()
    api.chunks.down = True
    answer = await api.get(f"{run.path}/stream?startIndex=-1")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_a_store_that_goes_away_holds_the_stream_and_loses_nothing() -> None:
    """The reader waits for it; what was committed meanwhile comes after."""
    api = Api()
    run = await api.start()
    run.sends = False
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await waits(stream, api, run)
        await run.complete("one")
        api.log.down = True
        api.clock.ahead += reader.HEAD_SECONDS
        await api.chunks.wake(run.run_id)
        await waits(stream, api, run)
        api.log.down = False
        api.clock.ahead += reader.HEAD_SECONDS
        await api.chunks.wake(run.run_id)
        await whole(run, await stream.read_all())


async def test_a_wiped_redis_costs_a_reader_nothing() -> None:
    """The worker tells its open step again, under the same indexes."""
    api = Api()
    run = await api.start()
    await run.begin()
    await run.say("first", reason="tool-calls")
    recorder = await run.recorder()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        sent = await run.stream_text(recorder, "one")
        so_far = await stream.read_until(b'"one"}\n\n')
        api.chunks.wipe()
        await waits(stream, api, run)
        committed = len(await run.frames())
        fence = await api.chunks.raise_attempt(run.run_id, run.attempt)
        await api.chunks.restart(run.run_id, fence, committed, sent)
        await run.stream_text(recorder, "two")
        await run.persist(recorder)
        await run.do(c.CompleteRun(attempt=run.attempt))
        await whole(run, so_far + await stream.read_all())


@pytest.mark.parametrize("frames_lost", [4, 0], ids=["known", "unknown"])
async def test_a_reader_of_frames_that_were_lost_is_told_so_and_never_gets_a_torn_message(
    frames_lost: int,
) -> None:
    """Worker and Redis lost in one step: error and finish for this connection alone.

    Also when the next worker could not know how much was lost: its next message tells.
    """
    api = Api()
    run = await api.start()
    await run.begin()
    recorder = await run.recorder()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await run.stream_text(recorder, "lost words")
        sent = await stream.read_until(b'"lost words"}\n\n')
        api.chunks.wipe()
        await waits(stream, api, run)
        run.attempt = Attempt(2)
        await run.do(c.ResumeRun(attempt=run.attempt, reason="lost", frames_lost=frames_lost))
        again = await run.recorder()
        for word in ("other ", "words ", "than ", "before"):
            await run.stream_text(again, word)
        await run.persist(again)
        rest = await stream.read_all()
        await run.do(c.CompleteRun(attempt=run.attempt))
    assert not chunks(rest)
    assert [part["type"] for part in errors_in(rest)] == ["error", "finish"]
    assert rest.endswith(DONE)
    assert sent
    await whole(run, (await api.get(f"{run.path}/stream{FROM_START}")).body)


async def test_a_reader_that_missed_a_takeover_goes_on_if_its_chunks_were_found() -> None:
    """The step is persisted as interrupted, with all that had been sent, and nothing is torn."""
    api = Api()
    run = await api.start()
    await run.begin()
    recorder = await run.recorder()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await run.stream_text(recorder, "half a ")
        so_far = await stream.read_until(b'"half a "}\n\n')
        run.attempt = Attempt(2)
        await run.do(c.ResumeRun(attempt=run.attempt, reason="lost"))
        await run.do(recorder.interrupt(run.attempt, "interrupted"))
        await run.say("again")
        await run.do(c.CompleteRun(attempt=run.attempt))
        await whole(run, so_far + await stream.read_all())


async def test_a_reader_from_before_a_takeover_loses_nothing_if_it_was_sent_nothing_before() -> (
    None
):
    """It first reads the log at the end: what it was sent live came from the new attempt."""
    api = Api()
    run = await api.start()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await waits(stream, api, run)
        run.attempt = Attempt(2)
        await run.do(c.ResumeRun(attempt=run.attempt, reason="lost"))
        await run.begin()
        recorder = await run.recorder()
        await run.stream_text(recorder, "one")
        so_far = await stream.read_until(b'"one"}\n\n')
        run.sends = False
        await run.persist(recorder)
        await run.do(c.CompleteRun(attempt=run.attempt))
        api.clock.ahead += reader.HEAD_SECONDS
        await api.chunks.wake(run.run_id)
        await whole(run, so_far + await stream.read_all())


async def test_a_reader_of_a_finished_step_loses_nothing_by_a_takeover_after_it() -> None:
    api = Api()
    run = await api.start()
    await run.begin()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await run.say("one", reason="tool-calls")
        so_far = await stream.read_until(b'"finish-step"}\n\n')
        run.attempt = Attempt(2)
        await run.do(c.ResumeRun(attempt=run.attempt, reason="handover"))
        await run.say("two")
        await run.do(c.CompleteRun(attempt=run.attempt))
        await whole(run, so_far + await stream.read_all())


async def test_invariant_3_a_reader_that_knows_of_a_takeover_is_shown_no_chunk_of_before() -> None:
    """Redis was wiped between the new worker's fence and `resumed`, and the old one woke up."""
    api = Api()
    run = await api.start()
    await run.begin()
    await run.say("first", reason="tool-calls")
    committed = len(await run.frames())
    late = (await run.recorder()).add(m.TextDelta(text="late"))
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        so_far = await stream.read_until(b'"finish-step"}\n\n')
        api.chunks.wipe()
        old = await api.chunks.raise_attempt(run.run_id, Attempt(1))
        run.attempt, run.sends = Attempt(2), False
        await run.do(c.ResumeRun(attempt=run.attempt, reason="lost"))
        api.clock.ahead += reader.HEAD_SECONDS
        await waits(stream, api, run)

        await api.chunks.restart(run.run_id, old, committed, [encode(frame) for frame in late])

        await waits(stream, api, run)
        await run.say("second")
        await run.do(c.CompleteRun(attempt=run.attempt))
        api.clock.ahead += reader.HEAD_SECONDS
        await api.chunks.wake(run.run_id)
        await whole(run, so_far + await stream.read_all())


async def test_a_reader_beyond_what_a_takeover_found_is_told_so_to_the_frame() -> None:
    """The frames that close the step stand where the reader has one more delta."""
    api = Api()
    run = await api.start()
    await run.begin()
    recorder, found = await run.recorder(), await run.recorder()
    found.add(m.TextDelta(text="one "))
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await run.stream_text(recorder, "one ")
        await run.stream_text(recorder, "two")
        await stream.read_until(b'"two"}\n\n')
        run.attempt, run.sends = Attempt(2), False
        await run.do(c.ResumeRun(attempt=run.attempt, reason="lost"))
        await run.do(found.interrupt(run.attempt, "interrupted"))
        api.chunks.wipe()
        api.clock.ahead += reader.HEAD_SECONDS
        await api.chunks.wake(run.run_id)
        rest = await stream.read_all()
    assert not chunks(rest)
    assert [part["type"] for part in errors_in(rest)] == ["error", "finish"]


async def test_a_reader_of_a_step_that_two_workers_lost_is_told_so() -> None:
    """What the second takeover finds may be the first one's own, and not what was read."""
    api = Api()
    run = await api.start()
    await run.begin()
    recorder = await run.recorder()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await run.stream_text(recorder, "lost")
        await stream.read_until(b'"lost"}\n\n')
        api.chunks.wipe()
        run.attempt = Attempt(2)
        await run.do(c.ResumeRun(attempt=run.attempt, reason="lost"))
        again = await run.recorder()
        for word in ("other ", "words"):
            await run.stream_text(again, word)
        run.attempt = Attempt(3)
        await run.do(c.ResumeRun(attempt=run.attempt, reason="lost"))
        await run.do(again.interrupt(run.attempt, "interrupted"))
        rest = await stream.read_all()
    assert not chunks(rest)
    assert [part["type"] for part in errors_in(rest)] == ["error", "finish"]


async def test_a_reader_goes_on_if_two_workers_were_lost_and_the_third_found_its_chunks() -> None:
    """The one in between died right after it had resumed the run, before it said anything."""
    api = Api()
    run = await api.start()
    await run.begin()
    recorder = await run.recorder()
    async with api.stream(f"{run.path}/stream") as (_, _, stream):
        await run.stream_text(recorder, "half a ")
        so_far = await stream.read_until(b'"half a "}\n\n')
        for attempt in (Attempt(2), Attempt(3)):
            run.attempt = attempt
            await run.do(c.ResumeRun(attempt=attempt, reason="lost"))
        await run.do(recorder.interrupt(run.attempt, "interrupted"))
        await run.say("again")
        await run.do(c.CompleteRun(attempt=run.attempt))
        await whole(run, so_far + await stream.read_all())


async def test_a_reader_that_came_in_the_middle_of_a_step_that_two_workers_lost_is_told_so() -> (
    None
):
    """It cannot know whether what it was sent is what the third worker found."""
    api = Api()
    run = await api.start()
    await run.begin()
    recorder = await run.recorder()
    await run.stream_text(recorder, "half ")
    index = await api.chunks.next_index(run.run_id)
    async with api.stream(f"{run.path}/stream?startIndex={index}") as (_, _, stream):
        await run.stream_text(recorder, "a ")
        await stream.read_until(b'"a "}\n\n')
        for attempt in (Attempt(2), Attempt(3)):
            run.attempt = attempt
            await run.do(c.ResumeRun(attempt=attempt, reason="lost"))
        await run.do(recorder.interrupt(run.attempt, "interrupted"))
        rest = await stream.read_all()
    assert not chunks(rest)
    assert [part["type"] for part in errors_in(rest)] == ["error", "finish"]


def errors_in(body: bytes) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(line.removeprefix(b"data: "))
        for line in body.splitlines()
        if line.startswith(b"data: {")
    ]


async def test_the_stream_and_the_messages_tell_the_same_message() -> None:
    """Invariant 7, over HTTP: id and parts, in order."""
    api = Api()
    run = await api.start()
    await run.begin()
    recorder = await run.recorder()
    recorder.add(m.ReasoningDelta(text="hm"))
    recorder.add(m.TextDelta(text="well"))
    await run.persist(recorder)
    await run.do(c.CompleteRun(attempt=run.attempt))
    body = (await api.get(f"{run.path}/stream{FROM_START}")).body
    told = StreamReader().read(decode(chunk) for chunk in chunks(body).values())
    own = (await api.get(f"/api/chats/{run.chat_id}/messages")).json["data"][-1]
    assert told.message == own
    assert own["id"] == assistant_message_id(run.run_id)
