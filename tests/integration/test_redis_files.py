"""Redis's own files after a deletion: written anew, refused, or not in time."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from runs_domain.storage.identity import SystemClock
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_files import REFUSED, FilesNotWritten, write_anew
from tests.support.driving import TestClock
from tests.support.waiting import until
from workers.stack.valkey import Valkey

WORD = b"a-word-that-was-streamed"
DUMP = "dump.rdb"


@pytest.fixture(name="redis")
async def client(valkey: Valkey) -> AsyncIterator[PipelinedRedis]:
    opened = PipelinedRedis(valkey.url())
    yield opened
    await opened.aclose()


async def folder_of(redis: Redis) -> Path:
    return Path((await redis.config_get("dir"))["dir"])


async def files_with(redis: Redis, word: bytes) -> set[str]:
    folder = await folder_of(redis)
    return {
        path.relative_to(folder).parts[0]
        for path in folder.rglob("*")
        if path.is_file() and word in path.read_bytes()
    }


async def test_what_was_deleted_goes_from_the_append_only_file_and_from_the_dump(
    redis: PipelinedRedis,
) -> None:
    await redis.config_set("save", "3600 1000000")
    await redis.config_set("rdbcompression", "no")
    await redis.set("streamed", WORD)
    await redis.save()
    await redis.delete("streamed")
    assert await files_with(redis, WORD) == {"appendonlydir", DUMP}

    assert await write_anew(redis, SystemClock()) is None

    assert await files_with(redis, WORD) == set()


async def test_a_user_without_the_right_is_told_as_what_it_is(
    valkey: Valkey, redis: PipelinedRedis
) -> None:
    await redis.execute_command(  # type: ignore[no-untyped-call]
        *("ACL", "SETUSER", "guest", "on", "nopass", "~*", "+@all", "-bgrewriteaof")
    )
    guest = PipelinedRedis(f"{valkey.url()}&username=guest&password=any")
    try:
        assert await write_anew(guest, SystemClock()) == REFUSED
    finally:
        await guest.aclose()


async def test_files_that_take_too_long_are_no_success(redis: PipelinedRedis) -> None:
    """Nor are they out of reach: whoever tries again may have them."""
    await redis.set("streamed", WORD)
    second_a_key = 1_000_000
    await redis.config_set("rdb-key-save-delay", second_a_key)
    with pytest.raises(FilesNotWritten, match="within 120 s"):
        await write_anew(redis, TestClock())


async def test_a_rewrite_that_died_is_no_success(valkey: Valkey, redis: PipelinedRedis) -> None:
    """Of a full disk, say."""
    await redis.set("streamed", WORD)
    minute_a_key = 60_000_000
    await redis.config_set("rdb-key-save-delay", minute_a_key)
    writing = asyncio.create_task(write_anew(redis, SystemClock()))
    await until(lambda: bool(children_of(valkey.pid)))
    for child in children_of(valkey.pid):
        os.kill(child, signal.SIGKILL)
    with pytest.raises(FilesNotWritten, match="could not write"):
        await writing


async def test_a_rewrite_that_cannot_begin_is_no_refusal(redis: PipelinedRedis) -> None:
    """Here its folder is gone and a file stands in its place."""
    folder = await folder_of(redis) / "appendonlydir"
    folder.rename(folder.with_name("elsewhere"))
    folder.touch()
    with pytest.raises(FilesNotWritten, match="could not write"):
        await write_anew(redis, SystemClock())


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
