"""The JobQueue port on a Redis stream: one Lua call a send, one job of a kind and id at a time."""

from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis
from typing_extensions import override

from runs_domain.ports import Job, JobKind, JobQueue, checked_delay_ms
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_client import LuaScript

JOB_KEYS: Final = (
    names.JOB_STREAM,
    names.JOB_INDEX,
    names.JOB_LATER,
    names.JOB_LATER_DATA,
    names.JOB_EPOCH,
    names.JOB_SHARES,
    names.JOB_WAITING,
    names.JOB_ACCOUNTS,
    names.JOB_WORKERS,
    names.JOB_SLOTS,
    names.JOB_COUNTERS,
    names.JOB_TURNS,
)
IDS_PER_CALL_MAX: Final = 500
"""Redis runs a script alone; this keeps one under a few milliseconds."""


def job_script(name: str) -> LuaScript:
    return LuaScript(name, preludes=("jobs", "job_shares"))


_SEND: Final = job_script("job_send")
_CANCEL: Final = job_script("job_cancel")
_HASTEN: Final = job_script("job_hasten")
_MISSING: Final = job_script("job_missing")


class RedisJobs(JobQueue):
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @override
    async def send(self, job: Job, *, delay_seconds: float = 0.0) -> bool:
        delay_ms = checked_delay_ms(delay_seconds)
        args = (names.GROUP, job.kind, job.id, job.account_id, job.cause, delay_ms)
        return bool(await _SEND(self._redis, JOB_KEYS, args))

    @override
    async def cancel(self, kind: JobKind, job_id: str) -> bool:
        return bool(await _CANCEL(self._redis, JOB_KEYS, (names.GROUP, f"{kind}:{job_id}")))

    @override
    async def hasten(self, kind: JobKind, job_id: str) -> bool:
        return bool(await _HASTEN(self._redis, JOB_KEYS, (names.GROUP, f"{kind}:{job_id}")))

    @override
    async def missing(self, kind: JobKind, ids: Sequence[str]) -> tuple[str, ...]:
        found: list[str] = []
        for start in range(0, len(ids), IDS_PER_CALL_MAX):
            keys = [f"{kind}:{one}" for one in ids[start : start + IDS_PER_CALL_MAX]]
            reply: list[bytes] = await _MISSING(self._redis, JOB_KEYS, (names.GROUP, *keys))
            found += [key.decode().removeprefix(f"{kind}:") for key in reply]
        return tuple(found)
