"""Coalesced look-ups: one query at a time, and no answer older than its question."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.storage.coalesce import Coalescer
from tests.support.waiting import until


class Store:
    """Answers only when it is told to."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {"a": 1, "b": 2}
        self.sent: list[tuple[str, ...]] = []
        self.gate = asyncio.Semaphore(0)
        self.failure: Exception | None = None

    async def fetch(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.sent.append(tuple(keys))
        seen = dict(self.values)
        await self.gate.acquire()
        if self.failure is not None:
            raise self.failure
        return {key: seen[key] for key in keys if key in seen}


def ask(coalescer: Coalescer[str, int], *keys: str) -> list[asyncio.Task[int | None]]:
    return [asyncio.create_task(coalescer.get(key)) for key in keys]


async def test_what_is_asked_while_a_query_is_under_way_goes_together_in_the_next() -> None:
    store = Store()
    coalescer = Coalescer(store.fetch)
    first = ask(coalescer, "a")
    await until(lambda: len(store.sent) == 1)
    later = ask(coalescer, "a", "b", "b", "c")
    store.gate.release()
    store.gate.release()

    assert await asyncio.gather(*first, *later) == [1, 1, 2, 2, None]
    assert store.sent == [("a",), ("a", "b", "c")]


async def test_a_question_is_never_answered_by_a_query_sent_before_it() -> None:
    store = Store()
    coalescer = Coalescer(store.fetch)
    first = ask(coalescer, "a")
    await until(lambda: len(store.sent) == 1)
    store.values["a"] = 7
    later = ask(coalescer, "a")
    store.gate.release()
    store.gate.release()

    assert await asyncio.gather(*first, *later) == [1, 7]


async def test_a_failed_query_fails_those_who_asked_it_and_nobody_else() -> None:
    store = Store()
    coalescer = Coalescer(store.fetch)
    first = ask(coalescer, "a", "b")
    await until(lambda: len(store.sent) == 1)
    store.failure = StoreUnavailable("down")
    store.gate.release()
    failed = await asyncio.gather(*first, return_exceptions=True)
    store.failure = None
    store.gate.release()

    assert [type(error) for error in failed] == [StoreUnavailable, StoreUnavailable]
    assert await coalescer.get("a") == 1


async def test_one_asker_who_gives_up_takes_nobody_along() -> None:
    store = Store()
    coalescer = Coalescer(store.fetch)
    quits, stays = ask(coalescer, "a", "a")
    await until(lambda: len(store.sent) == 1)
    quits.cancel()
    store.gate.release()

    assert await stays == 1
    assert quits.cancelled()


async def test_invariant_12_a_batch_and_the_waiting_have_limits() -> None:
    store = Store()
    coalescer = Coalescer(store.fetch, batch_keys_max=2, waiting_keys_max=3)
    first = ask(coalescer, "x")
    await until(lambda: len(store.sent) == 1)
    later = ask(coalescer, "a", "b", "c")
    await asyncio.gather(*ask(coalescer, "d"), return_exceptions=True)
    with pytest.raises(StoreUnavailable):
        await coalescer.get("d")
    for _ in range(3):
        store.gate.release()

    assert await asyncio.gather(*first, *later) == [None, 1, 2, None]
    assert store.sent == [("x",), ("a", "b"), ("c",)]
