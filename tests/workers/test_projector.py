"""The projector's pace, without a database: when it rests, and when it does not."""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.ids import Position, RunId, Version
from runs_domain.ports import Clock
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.identity import uuid7
from runs_domain.storage.projection import FoldFailed, NoCheckpoint, Projection
from workers.projector import (
    BATCH_EVENTS_MAX,
    EVENTS_PER_REST,
    MIGRATION_RETRY_SECONDS,
    POLL_SECONDS,
    REST_SECONDS_MAX,
    RETRY_SECONDS,
    STOPPED_RETRY_SECONDS,
    Projector,
)


class Ended(Exception):
    """The script is over."""


class Log:
    """A log of `events` events, of which `poison` (from 1) cannot be folded; notes what it is
    asked for, and ends after `rests` rests. A batch takes `batch_seconds`.
    """

    name = "view"

    def __init__(
        self,
        events: int,
        *,
        poison: int = 0,
        rests: int = 1,
        trouble: Sequence[StoreUnavailable] = (),
        batch_seconds: float = 0.004,
    ) -> None:
        self.events = events
        self.poison = poison
        self.trouble = list(trouble)
        self.place = 0
        self.now = 0.0
        self.batch_seconds = batch_seconds
        self.stopped: list[int] = []
        self.done: list[tuple[str, float]] = []
        self.goes_on = False
        self._rests_left = rests

    async def advance(self, events_max: int) -> int:
        if self.trouble:
            raise self.trouble.pop(0)
        taken = min(events_max, self.events - self.place)
        self.now += self.batch_seconds
        if self.place < self.poison <= self.place + taken:
            rows = [
                StoredRow(RunId(uuid7()), Version(1), "tag", b"", Position(self.place + 1 + index))
                for index in range(taken)
            ]
            raise FoldFailed(rows, ValueError())
        self.place += taken
        self.goes_on = self.place < self.events
        if taken:
            self.done.append(("took", taken))
        return taken

    async def stop(self, failure: FoldFailed) -> None:
        self.stopped.append(failure.position)

    async def close(self) -> None:
        self.done.append(("closed", 0))

    def monotonic_seconds(self) -> float:
        return self.now

    def rest(self, kind: str) -> "Callable[[float], asyncio.Future[None]]":
        def rested(seconds: float) -> "asyncio.Future[None]":
            self.done.append((kind, round(seconds, 6)))
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
        self.monotonic_seconds = log.monotonic_seconds


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


async def test_at_the_end_of_the_log_it_rests_in_proportion_to_its_work() -> None:
    """Longer where there is much, so that the next batch is large; never longer than the limit."""
    for events, seconds, rest in (
        (1, 0.001, 0.001 * (1 + 1 / EVENTS_PER_REST)),
        (EVENTS_PER_REST, 0.004, 0.008),
        (9 * EVENTS_PER_REST, 0.004, 0.04),
        (1, 1.0, REST_SECONDS_MAX),
    ):
        assert await play(Log(events, batch_seconds=seconds)) == [
            ("took", events),
            ("slept", pytest.approx(rest)),
            ("waited", POLL_SECONDS),
        ]


async def test_it_catches_up_without_rest() -> None:
    assert [kind for kind, _ in await play(Log(2 * BATCH_EVENTS_MAX + 1))] == [
        *("took", "took", "took", "slept", "waited")
    ]


async def test_a_database_that_is_away_is_asked_again_and_the_log_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    away = [StoreUnavailable("down"), StoreUnavailable("still down")]
    assert await play(Log(0, trouble=away, rests=2)) == [
        ("slept", RETRY_SECONDS),
        ("slept", RETRY_SECONDS),
        ("waited", POLL_SECONDS),
    ]
    assert caplog.messages == ["view view waits: down", "view view goes on"]


async def test_a_view_that_the_database_was_not_migrated_to_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    missing = [NoCheckpoint("no checkpoint"), NoCheckpoint("no checkpoint")]
    log = Log(3, trouble=missing, rests=3)
    assert (await play(log))[:3] == [
        ("slept", MIGRATION_RETRY_SECONDS),
        ("slept", MIGRATION_RETRY_SECONDS),
        ("took", 3),
    ]
    assert caplog.messages == ["view view waits for a migration: no checkpoint"]


@pytest.mark.parametrize("poison", [1, 2, 777, 1024, 2999, 3000])
async def test_everything_before_a_poison_event_is_taken_and_nothing_after_it(poison: int) -> None:
    log = Log(3000, poison=poison, rests=3)
    done = await play(log)

    assert log.place == poison - 1
    assert set(log.stopped) == {poison}
    assert ("slept", STOPPED_RETRY_SECONDS) in done


async def test_the_log_is_told_once_that_a_view_is_stopped_and_once_that_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    log = Log(5, poison=3, rests=4)
    stop = log.stop

    async def stop_and_mend(failure: FoldFailed) -> None:
        await stop(failure)
        if len(log.stopped) == 3:
            log.poison = 0

    log.stop = stop_and_mend  # type: ignore[method-assign]
    await play(log)

    assert log.stopped == [3, 3, 3]
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "view view is stopped at position 3",
        "view view goes on",
    ]


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
