"""One auto-pipelined connection: order, cancellation, deadlines, limits, reconnects."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError, WatchError
from redis.exceptions import TimeoutError as RedisTimeoutError

from runs_domain.errors import QueueUnavailable
from runs_domain.ports import Job
from runs_domain.storage import redis_lane
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from runs_domain.storage.redis_lane import Lane
from tests.support.redis_twins import RUN
from tests.support.silent_server import silent_server
from tests.support.waiting import until
from workers.stack.valkey import Valkey


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[PipelinedRedis]:
    client = PipelinedRedis(redis_url)
    yield client
    await client.aclose()


async def test_what_is_queued_together_goes_in_one_write(short_path: Path) -> None:
    async with silent_server(short_path) as silent:
        lane = Lane(silent.url)
        first = asyncio.ensure_future(lane.call("PING"))
        await until(lambda: silent.writes)
        silent.answer(b"+PONG\r\n")
        await first

        calls = asyncio.gather(*(lane.call("GET", f"k{number}") for number in range(50)))
        await until(lambda: len(silent.writes) > 1)
        silent.answer(b"$-1\r\n" * 50)

        assert await calls == [None] * 50
        assert len(silent.writes) == 2
        await lane.close()


async def test_replies_reach_their_callers_in_order(client: PipelinedRedis) -> None:
    values = await asyncio.gather(*(client.incr("n") for _ in range(500)))

    assert values == list(range(1, 501))


async def test_redis_py_2624_a_cancelled_command_leaves_the_connection_in_step(
    client: PipelinedRedis,
) -> None:
    """The reply of a cancelled command went to the next one."""
    await client.set("mine", "right")
    for turns in range(6):  # before the write, in flight, and after the reply
        doomed = asyncio.ensure_future(client.echo("wrong"))  # type: ignore[no-untyped-call]
        for _ in range(turns):
            await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop, no time
        doomed.cancel()
        assert await client.get("mine") == b"right"
        await asyncio.gather(doomed, return_exceptions=True)


async def test_redis_py_2243_a_server_that_hangs_fails_the_call_and_the_next_one_reconnects(
    short_path: Path,
) -> None:
    """Without a socket time-out it hung for ever."""
    async with silent_server(short_path) as silent:
        lane = Lane(silent.url, command_seconds=0.2)
        with pytest.raises(RedisTimeoutError):
            await lane.call("PING")

        again = asyncio.ensure_future(lane.call("PING"))
        await until(lambda: silent.connections == 2 and len(silent.writes) == 2)
        silent.answer(b"+PONG\r\n")
        assert await again == b"PONG"
        await lane.close()


async def test_a_connection_that_breaks_fails_what_is_in_flight(short_path: Path) -> None:
    async with silent_server(short_path) as silent:
        lane = Lane(silent.url)
        calls = [asyncio.ensure_future(lane.call("PING")) for _ in range(3)]
        await until(lambda: silent.writes)
        silent._writers[-1].transport.abort()

        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [RedisConnectionError] * 3
        await lane.close()


async def test_bytes_that_are_no_reply_break_the_connection(short_path: Path) -> None:
    async with silent_server(short_path) as silent:
        lane = Lane(silent.url)
        call = asyncio.ensure_future(lane.call("PING"))
        await until(lambda: silent.writes)
        silent.answer(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with pytest.raises(RedisConnectionError):
            await call
        await lane.close()


async def test_the_queue_is_bounded(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_lane, "WAITING_COMMANDS_MAX", 5)
    async with silent_server(short_path) as silent:
        lane = Lane(silent.url)
        waiting = lane.submit([("PING",)] * 5)

        with pytest.raises(RedisConnectionError, match="too much"):
            lane.submit([("PING",)])

        await until(lambda: silent.writes)
        silent.answer(b"+PONG\r\n" * 5)
        assert await asyncio.gather(*waiting) == [b"PONG"] * 5
        await lane.close()


async def test_the_queue_is_bounded_in_bytes(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_lane, "WAITING_BYTES_MAX", 1000)
    async with silent_server(short_path) as silent:
        lane = Lane(silent.url)
        first = lane.submit([("SET", "key", b"x" * 2000)])

        with pytest.raises(RedisConnectionError, match="too much"):
            lane.submit([("PING",)])

        await until(lambda: silent.writes)
        silent.answer(b"+OK\r\n")
        assert await first[0] == b"OK"
        await lane.close()


async def test_while_redis_is_down_calls_fail_and_it_is_found_again(valkey: Valkey) -> None:
    client = PipelinedRedis(valkey.url())
    await client.set("before", "there")
    valkey.stop()

    with pytest.raises(RedisConnectionError):
        await client.get("before")
    with pytest.raises(QueueUnavailable):
        await RedisJobs(client).send(Job(kind="run", id=str(RUN), account_id="a"))

    valkey.start()
    assert await until(lambda: _asked(client)) == b"there"
    assert await RedisJobs(client).send(Job(kind="run", id=str(RUN), account_id="a")) is True
    await client.aclose()


async def test_an_idle_connection_that_was_lost_is_not_noticed(valkey: Valkey) -> None:
    client = PipelinedRedis(valkey.url())
    await client.set("before", "there")
    valkey.stop(at_once=False)
    valkey.start()
    await until(lambda: client._lane._wire is None)

    assert await client.get("before") == b"there"
    await client.aclose()


async def test_redis_may_be_down_at_first(valkey: Valkey) -> None:
    valkey.stop()
    client = PipelinedRedis(valkey.url())
    with pytest.raises(RedisConnectionError):
        await client.ping()
    valkey.start()

    assert await until(lambda: _pinged(client)) is True
    await client.aclose()


async def test_password_and_database_of_the_url_are_used(valkey: Valkey) -> None:
    admin = PipelinedRedis(valkey.url())
    await admin.config_set("requirepass", "open sesame")
    client = PipelinedRedis(f"{valkey.url(3)}&password=open%20sesame")
    await client.set("in", "three")
    await admin.aclose()
    wrong = PipelinedRedis(f"{valkey.url()}&password=wrong")
    with pytest.raises(RedisConnectionError):
        await wrong.ping()

    assert (await client.client_info())["db"] == 3  # type: ignore[no-untyped-call]
    await client.aclose()
    await wrong.aclose()


async def test_a_server_that_hangs_up_at_once_fails_the_call(short_path: Path) -> None:
    path = short_path / "rude.sock"
    server = await asyncio.start_unix_server(lambda _, writer: writer.transport.abort(), path)
    async with server:
        lane = Lane(f"unix://{path}", command_seconds=5.0)
        for _ in range(20):
            with pytest.raises(RedisConnectionError):
                await lane.call("PING")
        await lane.close()


async def test_a_server_that_became_a_replica_is_left(short_path: Path) -> None:
    """After a failover the address may lead to the new master."""
    async with silent_server(short_path) as silent:
        lane = Lane(silent.url)
        call = asyncio.ensure_future(lane.call("SET", "a", 1))
        await until(lambda: silent.writes)
        silent.answer(b"-READONLY You can't write against a read only replica.\r\n")
        with pytest.raises(ReadOnlyError):
            await call

        again = asyncio.ensure_future(lane.call("PING"))
        await until(lambda: silent.connections == 2 and len(silent.writes) == 2)
        silent.answer(b"+PONG\r\n")
        assert await again == b"PONG"
        await lane.close()


async def test_an_error_reply_is_its_callers_alone(client: PipelinedRedis) -> None:
    await client.set("text", "abc")
    good, bad, good_too = await asyncio.gather(
        client.get("text"), client.incr("text"), client.get("text"), return_exceptions=True
    )

    assert (good, good_too) == (b"abc", b"abc")
    assert isinstance(bad, ResponseError)


async def test_pipelines_transactions_scripts_and_watch_work_as_in_redis_py(
    client: PipelinedRedis,
) -> None:
    async with client.pipeline(transaction=True) as pipe:
        pipe.set("a", 1)
        pipe.incr("a")
        pipe.hgetall("none")
        assert await pipe.execute() == [True, 2, {}]
    async with client.pipeline(transaction=False) as pipe:
        pipe.incr("a")
        pipe.lpush("a", "x")
        outcome = await pipe.execute(raise_on_error=False)
        assert outcome[0] == 3
        assert isinstance(outcome[1], ResponseError)
    script = client.register_script("return redis.call('GET', KEYS[1])")
    assert await script(keys=["a"]) == b"3"
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("a")
        await client.set("a", 9)
        pipe.multi()
        pipe.set("a", 10)
        with pytest.raises(WatchError):
            await pipe.execute()
    assert await client.get("a") == b"9"


async def test_a_transaction_with_a_bad_command_changes_nothing(client: PipelinedRedis) -> None:
    async with client.pipeline(transaction=True) as pipe:
        pipe.set("a", 1)
        pipe.execute_command("NO-SUCH-COMMAND")
        with pytest.raises(ResponseError):
            await pipe.execute()

    assert await client.get("a") is None


async def test_a_blocking_command_is_refused(client: PipelinedRedis) -> None:
    with pytest.raises(ValueError, match="everybody"):
        await client.blpop(["list"], timeout=1)
    with pytest.raises(ValueError, match="everybody"):
        await client.xread({"stream": "$"}, block=100)


async def test_after_close_calls_fail(client: PipelinedRedis) -> None:
    await client.ping()
    await client.aclose()

    with pytest.raises(RedisConnectionError):
        await client.ping()


async def _asked(client: PipelinedRedis) -> bytes | None:
    try:
        return await client.get("before")  # type: ignore[no-any-return]
    except RedisConnectionError:
        return None


async def _pinged(client: PipelinedRedis) -> bool:
    try:
        return bool(await client.ping())
    except RedisConnectionError:
        return False
