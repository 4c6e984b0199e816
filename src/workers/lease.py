"""Keeps the leases of running jobs alive, from a thread with a connection of its own.

A thread, because an event loop that is blocked for a while must not lose its jobs. But a loop that
has not ticked for `watchdog_seconds` will never finish them, so then the thread stops renewing.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import redis
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from runs_domain.faults import log_fault
from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_deliveries import RENEW
from runs_domain.storage.redis_jobs import JOB_KEYS

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE: Final = 3
LOOP_TICK_SECONDS: Final = 0.1
LEASES_PER_CALL_MAX: Final = 256
RETRY_SECONDS: Final = 0.1
JOIN_SECONDS: Final = 5.0


class LeaseKeeper:
    def __init__(
        self,
        redis_url: str,
        consumer: str,
        *,
        lease_seconds: float,
        watchdog_seconds: float,
        on_lost: Callable[[str], None],
    ) -> None:
        """`on_lost(ticket)` is called on the event loop, once a lost lease."""
        self._consumer = consumer
        self._lease_seconds = lease_seconds
        self._renew_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._watchdog_seconds = watchdog_seconds
        self._on_lost = on_lost
        self._client = redis.Redis.from_url(
            redis_url,
            socket_timeout=self._renew_seconds,
            socket_connect_timeout=self._renew_seconds,
        )
        self._lock = threading.Lock()
        self._leases: dict[str, bytes] = {}
        self._settling: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticked = time.monotonic()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tick()
        self._thread.start()

    async def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, JOIN_SECONDS)
        self._client.close()

    def add(self, ticket: str, job: Job, retries: int) -> None:
        """The job goes along, so that it can be held on to when Redis forgets everything."""
        fields = {"kind": job.kind, "id": job.id, "account": job.account_id}
        data = msgspec.json.encode({**fields, "cause": "resent", "retries": str(retries)})
        with self._lock:
            self._leases[ticket] = data

    def settle(self, ticket: str) -> None:
        """Its job is over and Redis is being told: renewed until that is done, but an entry that is
        gone is no loss to report from now on, for it is most likely us who took it out."""
        with self._lock:
            self._settling.add(ticket)

    def holds(self, ticket: str) -> bool:
        """False also once a renewal has found a settling ticket's entry gone."""
        with self._lock:
            return ticket in self._leases

    def drop(self, ticket: str) -> None:
        with self._lock:
            self._leases.pop(ticket, None)
            self._settling.discard(ticket)

    def _tick(self) -> None:
        self._ticked = time.monotonic()
        if self._loop is not None and not self._stop.is_set():
            self._loop.call_later(LOOP_TICK_SECONDS, self._tick)

    # -------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        pause = self._renew_seconds
        while not self._stop.wait(pause):
            pause = self._renew_seconds
            silent = time.monotonic() - self._ticked
            if silent > self._watchdog_seconds:
                logger.error("the event loop is blocked for %.0f s: its leases run out", silent)
                continue
            try:
                self._renew()
            except (RedisError, OSError) as error:
                logger.warning("leases were not renewed: %s", type(error).__name__)
                if isinstance(error, ReadOnlyError):  # the address may lead to a new master
                    self._client.connection_pool.disconnect()
                pause = min(RETRY_SECONDS, self._renew_seconds)
            except Exception as error:  # noqa: BLE001 - a thread that ends would lose every job
                log_fault(logger, "a renewal broke", error)

    def _renew(self) -> None:
        with self._lock:
            leases = list(self._leases.items())
        for start in range(0, len(leases), LEASES_PER_CALL_MAX):
            part = leases[start : start + LEASES_PER_CALL_MAX]
            for ticket in self._call(part):
                self._report(ticket.decode())

    def _call(self, leases: list[tuple[str, bytes]]) -> list[bytes]:
        lease_ms = int(self._lease_seconds * 1000)
        flat = [word for lease in leases for word in lease]
        args: list[Any] = [*JOB_KEYS, names.GROUP, self._consumer, lease_ms, *flat]
        try:
            lost = self._client.evalsha(RENEW.sha, len(JOB_KEYS), *args)
        except NoScriptError:
            lost = self._client.eval(RENEW.text, len(JOB_KEYS), *args)
        return lost  # type: ignore[return-value] # redis-py types the async reply too

    def _report(self, ticket: str) -> None:
        with self._lock:
            held = self._leases.pop(ticket, None) is not None
            is_loss = held and ticket not in self._settling
        if is_loss and self._loop is not None and not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._on_lost, ticket)
