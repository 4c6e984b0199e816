"""What a worker process does with the job stream: take entries, finish them, give them back."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from runs_domain.errors import QueueUnavailable
from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_jobs import JOB_KEYS, job_script
from runs_domain.storage.redis_lane import COMMAND_SECONDS, Lane

DUE_PER_CALL_MAX: Final = 100
KEY_CHARACTERS_MAX: Final = 500
"""Longer than any `<kind>:<id>` of ours: what garbage says need not go back to Redis whole."""
HEAL_PAGE_KEYS: Final = 200
HEAL_PAGES_MAX: Final = 100
"""Of each structure; the next call goes on where this one stopped."""
CONSUMER_KEPT_SECONDS: Final = 300
"""A consumer with nothing pending that has not asked for this long belongs to a dead process."""

_OPEN: Final = job_script("job_open")
_RECLAIM: Final = job_script("job_reclaim")
_CONFIRM: Final = job_script("job_confirm")
_FINISH: Final = job_script("job_finish")
_REQUEUE: Final = job_script("job_requeue")
_FORGET: Final = job_script("job_forget")
_TELL: Final = job_script("job_tell")
_HEAL: Final = job_script("job_heal")
RENEW: Final = job_script("job_renew")


class StreamForgotten(QueueUnavailable):
    """The consumer group is gone: Redis was emptied. `open` makes it again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it stands in the stream: nothing in it has been checked."""

    ticket: str
    fields: Mapping[bytes, bytes]
    times_taken: int = 1
    """Each but the last by a worker that was lost with it."""

    def text(self, name: str) -> str:
        return self.fields.get(name.encode(), b"").decode(errors="replace")

    @property
    def key(self) -> str:
        return f"{self.text('kind')}:{self.text('id')}"


class JobDeliveries:
    """One consumer of the group; a consumer's name is never used by a second process.

    Every method raises QueueUnavailable; afterwards `open` must come before the next take.
    """

    def __init__(
        self,
        redis: Redis,
        reader: Lane,
        consumer: str,
        *,
        lease_seconds: float,
        sweep_gap_seconds: float = 0.0,
    ) -> None:
        """`sweep_gap_seconds`: within that of another worker's sweep, ours finds nothing."""
        self._redis = redis
        self._reader = reader
        self._consumer = consumer
        self._lease_ms = int(lease_seconds * 1000)
        self._sweep_gap_ms = int(sweep_gap_seconds * 1000)
        self._healed_to = defaultdict[str, bytes](lambda: b"0")

    async def open(self) -> None:
        """Make the group if there is none."""
        await _OPEN(self._redis, JOB_KEYS, (names.GROUP,))

    async def read(self, count: int, *, wait_seconds: float) -> list[Entry]:
        """Up to `count` new entries, as soon as there is one; none after `wait_seconds`."""
        try:
            reply = await self._reader.call(
                *("XREADGROUP", "GROUP", names.GROUP, self._consumer, "COUNT", count),
                *("BLOCK", max(1, int(wait_seconds * 1000)), "STREAMS", names.JOB_STREAM, ">"),
            )
        except (RedisError, OSError) as error:
            if _is_forgotten(error):
                raise StreamForgotten(f"read: {type(error).__name__}") from error
            raise QueueUnavailable(f"read: {type(error).__name__}") from error
        return _entries(reply[0][1]) if reply else []

    async def reclaim(self, count: int, running: Iterable[str]) -> list[Entry]:
        """Bring due jobs and shares in order, then take up to `count` whose lease ran out."""
        limits = (self._lease_ms, count, DUE_PER_CALL_MAX, self._sweep_gap_ms)
        args = (names.GROUP, self._consumer, *limits, *running)
        try:
            _, taken = await _RECLAIM(self._redis, JOB_KEYS, args)
        except QueueUnavailable as error:
            if _is_forgotten(error.__cause__):
                raise StreamForgotten(str(error)) from error
            raise
        return _entries(taken)

    async def strangers(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries` that were not put there by `send`, or not any more: the index, which
        knows each job's one place, does not name them. To work on one could be to work twice."""
        keys = [entry.key[:KEY_CHARACTERS_MAX] for entry in entries]
        try:
            places = await self._redis.hmget(names.JOB_INDEX, keys) if keys else []  # type: ignore[misc]
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"index: {type(error).__name__}") from error
        known = [place and place.decode().partition(" ")[0] for place in places]
        return [entry for entry, place in zip(entries, known, strict=True) if entry.ticket != place]

    async def confirm(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries` that are still ours: Redis gave them to us some time ago."""
        tickets = [entry.ticket for entry in entries]
        args = (names.GROUP, self._consumer, *tickets)
        ours = {ticket.decode() for ticket in await _CONFIRM(self._redis, JOB_KEYS, args)}
        return [entry for entry in entries if entry.ticket in ours]

    async def finish(self, ticket: str, key: str) -> bool:
        """Take the job out for good. False = it was not ours any more."""
        args = (names.GROUP, self._consumer, ticket, key[:KEY_CHARACTERS_MAX])
        return bool(await _FINISH(self._redis, JOB_KEYS, args))

    async def requeue(
        self, ticket: str, job: Job, *, retries: int, delay_ms: int = 0, error: str = ""
    ) -> bool:
        """Give the job back, with the cause it says and what broke it last.

        False = it was not ours any more.
        """
        fields = (job.kind, job.id, job.account_id, job.cause, retries, delay_ms, error)
        args = (names.GROUP, self._consumer, ticket, *fields)
        return bool(await _REQUEUE(self._redis, JOB_KEYS, args))

    async def tell(
        self, number: int, counts: Mapping[str, int], *, slots: int | None, running: int = 0
    ) -> None:
        """Say that this worker lives, and add what it counted; `slots` None = it leaves.

        `number` goes up with each set of counts: one that is told again counts once.
        """
        told = ("" if slots is None else slots, running, names.WORKER_SILENT_SECONDS * 1000)
        pairs = [word for pair in counts.items() for word in pair]
        args = (names.GROUP, self._consumer, *told, number, *pairs)
        await _TELL(self._redis, JOB_KEYS, args)

    async def heal(self) -> int:
        """Bring index and shares together again where hands have torn them apart; how many."""
        wrong = 0
        for which in ("index", "shares", "accounts"):
            for _ in range(HEAL_PAGES_MAX):
                args = (names.GROUP, which, self._healed_to[which], HEAL_PAGE_KEYS)
                self._healed_to[which], healed = await _HEAL(self._redis, JOB_KEYS, args)
                wrong += healed
                if self._healed_to[which] == b"0":
                    break
        return wrong

    async def forget_dead_consumers(self) -> None:
        await _FORGET(self._redis, JOB_KEYS, (names.GROUP, CONSUMER_KEPT_SECONDS * 1000, ""))

    async def leave(self) -> None:
        """Remove this consumer, unless something is still pending with it."""
        await _FORGET(self._redis, JOB_KEYS, (names.GROUP, 0, self._consumer))

    async def claim_tick(self, tick: str) -> bool:
        """True for the one worker that is to run this tick of a cron job."""
        try:
            lock = names.cron_lock(tick)
            won = await self._redis.set(lock, self._consumer, nx=True, ex=names.CRON_LOCK_SECONDS)
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"cron: {type(error).__name__}") from error
        return bool(won)

    async def has_duty(self, what: str) -> bool:
        """True for one worker at a time: the same one, as long as it asks and lives."""
        lock = names.duty(what)
        try:
            if await self._redis.set(lock, self._consumer, nx=True, ex=names.DUTY_SECONDS):
                return True
            if await self._redis.get(lock) != self._consumer.encode():
                return False
            await self._redis.expire(lock, names.DUTY_SECONDS)
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"duty: {type(error).__name__}") from error
        return True

    async def close(self) -> None:
        await self._reader.close()


def reader_lane(url: str, *, wait_seconds: float) -> Lane:
    """A connection of its own for `read`; its deadline lies beyond the longest wait."""
    return Lane(url, command_seconds=wait_seconds + COMMAND_SECONDS)


def _is_forgotten(error: BaseException | None) -> bool:
    """How a read is told that waited while Redis was emptied, and whatever comes after that."""
    return str(error).startswith(("UNBLOCKED", "NOGROUP"))


def _entries(rows: Sequence[Any]) -> list[Entry]:
    entries = []
    for row in rows:
        if row and row[1]:
            ticket, flat, *taken = row
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            entries.append(Entry(ticket.decode(), fields, *taken))
    return entries
