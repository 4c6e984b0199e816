"""Many look-ups, one query at a time: the mirror of the group commit.

Whatever is asked while a query is under way goes into the next one, together. A look-up joins
only a query that has not been sent, so that it never gets an answer older than its question: a
revocation shows at the next request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from runs_domain.errors import StoreUnavailable

BATCH_KEYS_MAX: Final = 512
WAITING_KEYS_MAX: Final = 8192

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Coalescer(Generic[K, V]):
    """`fetch` takes different keys and answers those that exist; it carries its own deadline."""

    def __init__(
        self,
        fetch: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        batch_keys_max: int = BATCH_KEYS_MAX,
        waiting_keys_max: int = WAITING_KEYS_MAX,
    ) -> None:
        self._fetch = fetch
        self._batch_keys_max = batch_keys_max
        self._waiting_keys_max = waiting_keys_max
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._sender: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """The value, or None if there is none. Raises what `fetch` raises, and
        StoreUnavailable when too many wait.
        """
        answer = self._waiting.get(key)
        if answer is None:
            if len(self._waiting) >= self._waiting_keys_max:
                raise StoreUnavailable("too many look-ups wait")
            answer = asyncio.get_running_loop().create_future()
            # Its askers may all be gone when it fails; nobody is owed a warning then.
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._waiting[key] = answer
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        # Shielded: one asker's cancellation is not the others'.
        return await asyncio.shield(answer)

    async def _send(self) -> None:
        while self._waiting:
            keys = tuple(self._waiting)[: self._batch_keys_max]
            batch = {key: self._waiting.pop(key) for key in keys}
            try:
                found = await self._fetch(keys)
            except BaseException as error:
                # Whoever asked gets the error; a cancelled sender must not leave them hanging.
                stopped = not isinstance(error, Exception)
                failure = StoreUnavailable("the look-up was stopped") if stopped else error
                for answer in (*batch.values(), *(self._drain() if stopped else ())):
                    answer.set_exception(failure)
                if stopped:
                    raise
            else:
                for key, answer in batch.items():
                    answer.set_result(found.get(key))

    def _drain(self) -> tuple[asyncio.Future[V | None], ...]:
        left = tuple(self._waiting.values())
        self._waiting.clear()
        return left
