"""The projector's pace, without a database: when it rests, and when it does not."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.ids import Position, RunId, Version
from runs_domain.ports import Clock
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.identity import uuid7
from runs_domain.storage.projection import FoldFailed, Projection
from workers.projector import (
    BATCH_EVENTS_MAX,
    BATCH_INTERVAL_SECONDS,
    POLL_SECONDS,
    RETRY_SECONDS,
    STOPPED_RETRY_SECONDS,
    Projector,
)


class Ended(Exception):
    """The script is over."""


class Log:
    """A log of `events` events, of which `poison` (from 1) cannot be folded; notes what it is
    asked for, and ends after `rests` rests.
    """

    name = "view"

    def __init__(self, events: int, *, poison: int = 0, rests: int = 1, away: int = 0) -> None:
        self.events = events
        self.poison = poison
        self.away = away
        self.place = 0
        self.stopped: list[int] = []
        self.done: list[tuple[str, float]] = []
        self._rests_left = rests

    async def is_behind(self) -> bool:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("down")
        return self.place < self.events

    async def advance(self, events_max: int) -> int:
        taken = min(events_max, self.events - self.place)
        if self.place < self.poison <= self.place + taken:
            rows = [
                StoredRow(RunId(uuid7()), Version(1), "tag", b"", Position(self.place + 1 + index))
                for index in range(taken)
            ]
            raise FoldFailed(rows, ValueError())
        self.place += taken
        self.done.append(("took", taken))
        return taken

    async def stop(self, failure: FoldFailed) -> None:
        self.stopped.append(failure.position)

    async def close(self) -> None:
        self.done.append(("closed", 0))

    def rest(self, kind: str) -> "Callable[[float], asyncio.Future[None]]":
        def rested(seconds: float) -> "asyncio.Future[None]":
            self.done.append((kind, seconds))
            self._rests_left -= 1
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._rests_left < 0:
                future.set_exception(Ended())
            else:
                future.set_result(None)
            return future

        return rested


class FakeClock:
    def __init__(self, log: Log) -> None:
        self.sleep = log.rest("slept")


async def play(log: Log) -> list[tuple[str, float]]:
    projector = Projector(
        cast("Projection", log), cast("Clock", FakeClock(log)), log.rest("waited")
    )
    with pytest.raises(Ended):
        await projector.run()
    assert log.done.pop() == ("closed", 0)
    return log.done


async def test_with_nothing_to_do_it_waits_for_a_wake_with_polling_as_the_net() -> None:
    assert await play(Log(0)) == [("waited", POLL_SECONDS)] * 2


async def test_after_a_small_batch_it_rests_so_that_the_next_one_is_larger() -> None:
    assert await play(Log(5)) == [
        ("took", 5),
        ("slept", BATCH_INTERVAL_SECONDS),
        ("waited", POLL_SECONDS),
    ]


async def test_it_catches_up_without_rest() -> None:
    assert await play(Log(2 * BATCH_EVENTS_MAX + 1)) == [
        ("took", BATCH_EVENTS_MAX),
        ("took", BATCH_EVENTS_MAX),
        ("took", 1),
        ("slept", BATCH_INTERVAL_SECONDS),
        ("waited", POLL_SECONDS),
    ]


async def test_a_database_that_is_away_is_asked_again_and_again() -> None:
    assert await play(Log(0, away=2, rests=2)) == [
        ("slept", RETRY_SECONDS),
        ("slept", RETRY_SECONDS),
        ("waited", POLL_SECONDS),
    ]


@pytest.mark.parametrize("poison", [1, 2, 777, 1024, 2999, 3000])
async def test_everything_before_a_poison_event_is_taken_and_nothing_after_it(poison: int) -> None:
    log = Log(3000, poison=poison, rests=3)
    done = await play(log)

    assert log.place == poison - 1
    assert set(log.stopped) == {poison}
    assert ("slept", STOPPED_RETRY_SECONDS) in done


async def test_a_view_goes_on_by_itself_once_its_event_can_be_taken() -> None:
    log = Log(3000, poison=1500, rests=3)
    stop = log.stop

    async def stop_and_mend(failure: FoldFailed) -> None:
        await stop(failure)
        log.poison = 0

    log.stop = stop_and_mend  # type: ignore[method-assign]
    await play(log)

    assert log.stopped == [1500]
    assert log.place == 3000
