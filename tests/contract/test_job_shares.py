"""Fair share: how many jobs of an account may be in the stream, on fakeredis and a real Valkey."""

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from runs_domain.ports import Job
from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_deliveries import JobDeliveries
from runs_domain.storage.redis_lane import Lane
from tests.support.job_fleet import Fleet, account
from tests.support.redis_twins import KINDS, redis_of

BUSY, OTHER, THIRD = 1, 2, 3


@pytest.fixture(params=KINDS)
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    url = request.getfixturevalue("redis_url") if request.param == "valkey" else ""
    async with redis_of(request.param, url) as client:
        yield Fleet(client)


def ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:03}" for number in range(count)]


async def test_a_lone_account_has_every_slot(fleet: Fleet) -> None:
    await fleet.has_slots(8)
    await fleet.send(BUSY, *ids("a", 20))

    assert await fleet.take(8) == ids("a", 8)
    await fleet.finish("a000")
    assert await fleet.take(1) == ["a008"]


async def test_an_account_that_comes_is_next_whatever_another_has_sent(fleet: Fleet) -> None:
    await fleet.has_slots(8)
    await fleet.send(BUSY, *ids("a", 300))
    await fleet.take(8)
    await fleet.send(OTHER, "b")

    await fleet.finish("a000")
    assert await fleet.take(1) == ["b"]


async def test_two_busy_accounts_come_to_half_each_and_stay_there(fleet: Fleet) -> None:
    await fleet.has_slots(8)
    await fleet.send(BUSY, *ids("a", 40))
    running = await fleet.take(8)
    await fleet.send(OTHER, *ids("b", 40))
    shares = []
    for _ in range(30):
        await fleet.finish(running.pop(0))
        running += await fleet.take(1)
        shares.append(Counter(one[0] for one in running))

    assert [share["a"] for share in shares[:4]] == [7, 6, 5, 4]
    assert shares[3:] == [Counter(a=4, b=4)] * 27


async def test_an_account_with_one_long_job_costs_another_one_slot_only(fleet: Fleet) -> None:
    """Half of the slots would be idle if the limit were a wall."""
    await fleet.has_slots(8)
    await fleet.send(OTHER, "long")
    await fleet.send(BUSY, *ids("a", 40))

    assert await fleet.take(8) == ["long", *ids("a", 7)]


async def test_slots_are_shared_evenly_between_many_accounts(fleet: Fleet) -> None:
    await fleet.has_slots(8)
    for whose, letter in ((BUSY, "a"), (OTHER, "b"), (THIRD, "c"), (4, "d")):
        await fleet.send(whose, *ids(letter, 30))
    running = await fleet.take(8)
    for _ in range(20):
        await fleet.finish(running.pop(0))
        running += await fleet.take(1)

    assert Counter(one[0] for one in running) == Counter(a=2, b=2, c=2, d=2)
    assert len(await fleet.untaken()) <= 2  # so a fifth account's job begins soon


async def test_one_slot_goes_from_account_to_account(fleet: Fleet) -> None:
    await fleet.has_slots(1)
    await fleet.send(BUSY, *ids("a", 3))
    await fleet.send(OTHER, *ids("b", 3))
    order = []
    while running := await fleet.take(1):
        order += running
        await fleet.finish(*running)

    assert order == ["a000", "b000", "a001", "b001", "a002", "b002"]


async def test_jobs_of_an_account_begin_in_the_order_they_were_sent(fleet: Fleet) -> None:
    await fleet.has_slots(2)
    await fleet.send(BUSY, *ids("a", 10))
    order = []
    while running := await fleet.take(1):
        order += running
        await fleet.finish(*running)

    assert order == ids("a", 10)


async def test_new_slots_are_used_at_the_next_sweep(fleet: Fleet) -> None:
    await fleet.has_slots(2)
    await fleet.send(BUSY, *ids("a", 10))
    await fleet.take(2)

    await fleet.has_slots(4, "two")
    assert await fleet.take(4, "two") == ["a002", "a003", "a004", "a005"]


async def test_a_worker_that_leaves_takes_its_slots_along(fleet: Fleet) -> None:
    await fleet.has_slots(2)
    await fleet.has_slots(4, "two")
    await fleet.deliveries("two").tell(2, {}, slots=None)
    await fleet.send(BUSY, *ids("a", 10))

    assert await fleet.in_stream() == Counter({BUSY: 2})


async def test_a_worker_that_says_nothing_any_more_has_no_slots(fleet: Fleet) -> None:
    await fleet.has_slots(6, "dead")
    word = await fleet.redis.hget(names.JOB_WORKERS, "dead")
    said_ms = int(word.split()[0]) - (names.WORKER_SILENT_SECONDS + 1) * 1000
    await fleet.redis.hset(names.JOB_WORKERS, "dead", f"{said_ms} 6 0 1")
    await fleet.has_slots(2)
    await fleet.send(BUSY, *ids("a", 10))

    assert await fleet.in_stream() == Counter({BUSY: 2})
    assert set(await fleet.redis.hkeys(names.JOB_WORKERS)) == {b"one"}


async def test_what_stands_in_the_stream_beyond_the_slots_steps_back_for_others(
    fleet: Fleet,
) -> None:
    """Sent while no worker, or a bigger fleet, was there."""
    await fleet.send(BUSY, *ids("a", 40))
    await fleet.send(OTHER, "b")
    await fleet.has_slots(4)
    running = await fleet.take(4)

    assert running == ["a000", "a001", "a002", "b"]
    order = []
    while running:
        await fleet.finish(running.pop(0))
        order += (new := await fleet.take(1))
        running += new
    assert order == ids("a", 40)[3:]


async def test_what_a_dead_worker_held_gives_its_account_no_more_than_its_share(
    fleet: Fleet,
) -> None:
    await fleet.has_slots(8, "dead")
    await fleet.send(BUSY, *ids("a", 8))
    for one in await fleet.take(8, "dead"):
        await fleet.lose(one, "dead")
    await fleet.send(OTHER, *ids("b", 8))
    await fleet.deliveries("dead").tell(2, {}, slots=None)
    await fleet.has_slots(8)
    running = await fleet.take(8)
    assert Counter(one[0] for one in running) == Counter(a=4, b=4)

    entries = dict(await fleet.redis.xrange(names.JOB_STREAM))
    await fleet.finish(running.pop(0))
    (again,) = await fleet.take(1)
    new = [
        row for ticket, row in await fleet.redis.xrange(names.JOB_STREAM) if ticket not in entries
    ]
    assert again.startswith("a")
    assert [row[b"cause"] for row in new] == [b"resent"]


async def test_a_job_given_back_comes_before_those_that_wait(fleet: Fleet) -> None:
    await fleet.has_slots(2)
    await fleet.send(BUSY, *ids("a", 6))
    await fleet.take(2)
    await fleet.send(OTHER, "b")
    await fleet.give_back("a000", whose=BUSY)  # now three are in the stream, and two slots
    await fleet.sweep()
    assert await fleet.take(1) == ["b"]
    await fleet.finish("b")
    assert await fleet.take(1) == ["a000"]


async def _second_four_of_forty(fleet: Fleet) -> list[str]:
    """Running jobs that came into the stream after all the others had been sent."""
    await fleet.has_slots(4)
    await fleet.send(BUSY, *ids("a", 40))
    for one in await fleet.take(4):
        await fleet.finish(one)
    return await fleet.take(4)


async def _order(fleet: Fleet) -> list[str]:
    order = []
    while running := await fleet.take(1):
        order += running
        await fleet.finish(*running)
    return order


async def test_a_begun_job_that_is_handed_over_comes_before_its_accounts_backlog(
    fleet: Fleet,
) -> None:
    begun = await _second_four_of_forty(fleet)
    await fleet.send(OTHER, *ids("b", 10))
    await fleet.give_back(begun[0], whose=BUSY)
    for one in begun[1:]:
        await fleet.finish(one)

    order = [one for one in await _order(fleet) if one.startswith("a")]
    assert order == [begun[0], *ids("a", 40)[8:]]


async def test_a_begun_job_that_paused_comes_before_its_accounts_backlog(fleet: Fleet) -> None:
    """A moment without PostgreSQL put running runs behind all that their account had queued."""
    begun = await _second_four_of_forty(fleet)
    for one in begun:
        await fleet.give_back(one, whose=BUSY, delay_ms=60_000)
    began_meanwhile = await fleet.take(4)
    for one in begun:
        await fleet.redis.zadd(names.JOB_LATER, {f"run:{one}": 1})
    await fleet.sweep()
    for one in began_meanwhile:
        await fleet.finish(one)

    assert await _order(fleet) == [*begun, *ids("a", 40)[12:]]


async def test_a_dead_workers_jobs_come_before_their_accounts_backlog(fleet: Fleet) -> None:
    begun = await _second_four_of_forty(fleet)
    await fleet.send(OTHER, *ids("b", 10))
    for one in begun:
        await fleet.lose(one)
    await fleet.deliveries("one").tell(9, {}, slots=None)
    await fleet.has_slots(2, "two")
    order = []
    while running := await fleet.take(1, "two"):
        order += running
        await fleet.finish(*running, consumer="two")

    assert set([one for one in order if one.startswith("a")][:4]) == set(begun)


async def test_a_job_that_is_sent_again_comes_before_its_accounts_backlog(fleet: Fleet) -> None:
    """The reconciler sends what was there before: a run may have been begun."""
    await fleet.has_slots(1)
    await fleet.send(BUSY, *ids("a", 5))
    again = Job(kind="run", id="lost", account_id=account(BUSY), cause="resent")
    await fleet.jobs.send(again)

    assert await _order(fleet) == ["a000", "lost", *ids("a", 5)[1:]]


async def test_a_job_that_pauses_leaves_its_place_to_others(fleet: Fleet) -> None:
    await fleet.has_slots(1)
    await fleet.send(BUSY, "a", "b")
    await fleet.take(1)
    await fleet.give_back("a", whose=BUSY, delay_ms=60_000)

    assert await fleet.take(1) == ["b"]


async def test_a_job_that_waits_is_there(fleet: Fleet) -> None:
    await fleet.has_slots(1)
    await fleet.send(BUSY, "a", "b")

    assert await fleet.jobs.send(Job(kind="run", id="b", account_id=account(BUSY))) is False
    assert await fleet.jobs.missing("run", ["a", "b", "c"]) == ("c",)


async def test_a_job_that_waits_can_be_cancelled_and_sent_again(fleet: Fleet) -> None:
    await fleet.has_slots(1)
    await fleet.send(BUSY, "a", "b", "c")

    assert await fleet.jobs.cancel("run", "b") is True
    assert await fleet.jobs.missing("run", ["b"]) == ("b",)
    await fleet.send(BUSY, "b")
    order = []
    while running := await fleet.take(1):
        order += running
        await fleet.finish(*running)
    assert order == ["a", "c", "b"]


async def test_cancelling_a_queued_job_makes_room_for_one_that_waits(fleet: Fleet) -> None:
    await fleet.has_slots(1)
    await fleet.send(BUSY, "a", "b")
    assert await fleet.untaken() == ["a"]
    await fleet.jobs.cancel("run", "a")

    assert await fleet.untaken() == ["b"], "no sweep has come yet"
    assert await fleet.take(1) == ["b"]


async def test_a_hastened_job_comes_before_those_of_its_account_that_wait(fleet: Fleet) -> None:
    await fleet.has_slots(1)
    await fleet.jobs.send(
        Job(kind="run", id="late", account_id=account(BUSY)), delay_seconds=3600.0
    )
    await fleet.send(BUSY, "a", "b")
    assert await fleet.take(1) == ["a"]

    assert await fleet.jobs.hasten("run", "late") is True
    await fleet.finish("a")
    assert await fleet.take(1) == ["late"]


async def test_a_delayed_job_that_is_due_stands_in_line_like_others(fleet: Fleet) -> None:
    await fleet.has_slots(1)
    await fleet.jobs.send(
        Job(kind="run", id="late", account_id=account(BUSY)), delay_seconds=3600.0
    )
    await fleet.send(BUSY, "a")
    await fleet.redis.zadd(names.JOB_LATER, {"run:late": 1})
    await fleet.sweep()

    assert await fleet.in_stream() == Counter({BUSY: 1})
    await fleet.take(1)
    await fleet.finish("a")
    assert await fleet.take(1) == ["late"]


async def test_shares_that_were_lost_or_made_up_are_put_right(fleet: Fleet) -> None:
    """By hands, or a backup that was restored in part: no script of ours tears them apart."""
    await fleet.has_slots(2)
    await fleet.send(BUSY, "a")
    await fleet.redis.zadd(names.JOB_SHARES, {f"{account(OTHER)}:run:none": 0})
    await fleet.redis.sadd(names.JOB_ACCOUNTS, account(OTHER), account(THIRD))
    await fleet.redis.zrem(names.JOB_SHARES, f"{account(BUSY)}:run:a")

    assert await fleet.deliveries("one").heal() > 0

    assert await fleet.redis.zrange(names.JOB_SHARES, 0, -1) == [f"{account(BUSY)}:run:a".encode()]
    assert await fleet.redis.smembers(names.JOB_ACCOUNTS) == {account(BUSY).encode()}
    assert await fleet.deliveries("one").heal() == 0


async def test_a_job_whose_entry_was_deleted_takes_no_share_for_ever(fleet: Fleet) -> None:
    await fleet.has_slots(1)
    await fleet.send(BUSY, "a", "b")
    await fleet.redis.delete(names.JOB_STREAM)

    await fleet.deliveries("one").open()
    await fleet.deliveries("one").heal()
    assert await fleet.take(1) == ["b"]


async def test_a_wiped_redis_keeps_nobody_waiting(fleet: Fleet) -> None:
    await fleet.has_slots(1)
    await fleet.send(BUSY, *ids("a", 5))
    await fleet.take(1)
    await fleet.redis.flushall()
    await fleet.send(BUSY, *ids("a", 5))
    await fleet.has_slots(1)
    order = []
    while running := await fleet.take(1):
        order += running
        await fleet.finish(*running)

    assert order == ids("a", 5)


async def test_one_sweep_is_for_the_whole_fleet(fleet: Fleet) -> None:
    """Each looks at a hundred accounts: two hundred workers' kept Redis busy with nothing else."""
    await fleet.has_slots(2)
    await fleet.send(BUSY, *ids("a", 6))
    lane = Lane("redis://localhost:1")
    one, two = (
        JobDeliveries(fleet.redis, lane, name, lease_seconds=3.0, sweep_gap_seconds=3600.0)
        for name in ("one", "two")
    )
    await one.reclaim(1, [])
    await fleet.take(2)
    await fleet.lose("a000")
    await fleet.has_slots(4, "two")

    assert await two.reclaim(1, []) == []
    assert await fleet.in_stream() == Counter({BUSY: 2})
    future_ms = 2**53
    await fleet.redis.hset(names.JOB_TURNS, mapping={"shares": future_ms, "reclaim": future_ms})
    assert [entry.text("id") for entry in await two.reclaim(1, [])] == ["a000"]
    assert await fleet.in_stream() == Counter({BUSY: 6})


async def test_a_sweep_moves_no_more_than_redis_can_stand_still_for(fleet: Fleet) -> None:
    await fleet.has_slots(2)
    await fleet.send(BUSY, *ids("a", 130))
    await fleet.send(OTHER, *ids("b", 130))
    await fleet.send(THIRD, *ids("c", 130))
    before = (await fleet.in_stream()).total()

    await fleet.has_slots(1000)
    await fleet.sweep()
    assert (await fleet.in_stream()).total() == before + 200
    await fleet.sweep()
    assert (await fleet.in_stream()).total() == 390


async def test_one_worker_puts_job_records_right_for_all(fleet: Fleet) -> None:
    one, two = fleet.deliveries("one"), fleet.deliveries("two")

    assert await one.has_duty("heal") is True
    assert await two.has_duty("heal") is False
    assert await one.has_duty("heal") is True
    assert 0 < await fleet.redis.ttl(names.duty("heal")) <= names.DUTY_SECONDS
    await fleet.redis.delete(names.duty("heal"))  # as when it has not asked for so long
    assert await two.has_duty("heal") is True


async def test_an_account_whose_one_queued_job_was_lost_is_next_once_that_is_seen(
    fleet: Fleet,
) -> None:
    await fleet.has_slots(1)
    await fleet.send(BUSY, "a", "b")
    await fleet.redis.xdel(names.JOB_STREAM, await fleet.ticket("a"))
    await fleet.deliveries("one").heal()

    assert await fleet.untaken() == ["b"]
