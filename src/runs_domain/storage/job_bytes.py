"""All that Redis holds about jobs, as bytes: for an audit that looks for content in it."""

from collections.abc import AsyncIterator
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from runs_domain.errors import QueueUnavailable
from runs_domain.settings import Secret
from runs_domain.storage import redis_names as names

PAGE_ENTRIES_MAX: Final = 1_000
REDIS_SECONDS_MAX: Final = 10.0
"""One reply."""
_SCANS: Final = {b"hash": "HSCAN", b"set": "SSCAN", b"zset": "ZSCAN"}


async def job_bytes(url: Secret) -> AsyncIterator[bytes]:
    """A block an entry, whatever key it is in. Raises QueueUnavailable."""
    client = Redis.from_url(
        url.reveal(), socket_timeout=REDIS_SECONDS_MAX, socket_connect_timeout=REDIS_SECONDS_MAX
    )
    try:
        async for key in client.scan_iter(names.JOB_KEYS_PATTERN, count=PAGE_ENTRIES_MAX):
            yield key
            async for entry in _entries(client, key):
                yield entry
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"what is kept about jobs: {type(error).__name__}") from error
    finally:
        await client.aclose()


async def _entries(client: Redis, key: bytes) -> AsyncIterator[bytes]:
    kind = await client.type(key)
    if kind == b"stream":
        start = "-"
        while page := await client.xrange(key, start, count=PAGE_ENTRIES_MAX):
            for _, fields in page:
                yield b"\n".join(part for item in fields.items() for part in item)
            start = f"({page[-1][0].decode()}"
    elif kind == b"string":
        yield await client.get(key) or b""
    elif kind in _SCANS:
        cursor = -1
        while cursor:
            # redis-py gives members of a set, pairs of a hash, scored members of a sorted set.
            reply = await client.execute_command(  # type: ignore[no-untyped-call]
                _SCANS[kind], key, max(cursor, 0)
            )
            cursor, found = reply
            for item in found.items() if isinstance(found, dict) else found:
                parts = item if isinstance(item, tuple) else (item,)
                yield b"\n".join(part for part in parts if isinstance(part, bytes))
    elif kind != b"none":  # it has just ended
        raise QueueUnavailable(f"a key about jobs is a {kind.decode()}, which nobody reads here")
