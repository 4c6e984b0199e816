"""What other job queues were seen to do when processes die, freeze or lose Redis, and must not
happen here. docs/faults_of_other_queues.md says which test stands for which fault."""

import itertools
import random
import signal
import time
from collections import Counter

import pytest

from runs_domain.storage import redis_names as names
from tests.support.job_desk import TICK, JobDesk, job_id
from tests.support.waiting import until_sync
from tests.support.worker_processes import FIRST, WAIT_SECONDS, Worker, WorkerProcesses
from workers.stack.valkey import Valkey

pytestmark = pytest.mark.crash

SECOND = job_id(2)
DELAY_SECONDS = 4
KILL_EVERY_SECONDS = 1.5


# ------------------------------------------------------------------------------ live workers


def test_arq_an_idle_worker_takes_new_jobs_while_over_a_hundred_run_elsewhere(
    workers: WorkerProcesses,
) -> None:
    many = [job_id(number) for number in range(1, 121)]
    workers.desk.plan("hold")
    workers.start("busy", slots=len(many))
    workers.send(*many)
    until_sync(lambda: len(workers.desk.notes()) == len(many), timeout_seconds=WAIT_SECONDS)
    workers.start("idle")
    new = job_id(999)
    workers.desk.plan("end", new)
    workers.send(new)

    workers.noted("idle done", new)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param("work 10", id="of-10-leases"),
        pytest.param("work 40", id="of-40-leases", marks=pytest.mark.long),
    ],
)
def test_taskiq_101_and_celery_5935_a_live_job_longer_than_any_time_out_begins_once(
    workers: WorkerProcesses, plan: str
) -> None:
    """Beside it, a job that blocks the event loop for three leases."""
    workers.desk.plan(plan, FIRST)
    workers.desk.plan("block", SECOND)
    workers.start("holder")
    workers.send(FIRST)
    workers.noted("holder begun fresh new")
    workers.send(SECOND)
    workers.noted("holder begun fresh new", SECOND)
    workers.start("other")
    workers.leases_pass(3)
    workers.desk.let_leave()
    workers.desk.open(SECOND)

    workers.all_done([FIRST, SECOND], timeout_seconds=60)
    assert (workers.begun(FIRST), workers.begun(SECOND)) == (["holder"], ["holder"])
    workers.nothing_left()


def test_celery_5935_a_job_that_is_delayed_for_several_leases_begins_once(
    workers: WorkerProcesses,
) -> None:
    """While it waited for its time, each visibility time-out had made one more of it."""
    workers.start("one")
    workers.start("two")
    due = workers.server_seconds() + DELAY_SECONDS
    workers.send(FIRST, delay_seconds=DELAY_SECONDS)
    workers.send(SECOND)
    workers.all_done([SECOND])

    workers.all_done([FIRST])
    assert workers.server_seconds() >= due, "it was begun before its time"
    workers.nothing_left()
    assert len(workers.begun(FIRST)) == 1


def test_arq_485_a_cancelled_job_does_not_poison_the_next_one_of_its_id(
    workers: WorkerProcesses,
) -> None:
    """Whether the cancelled one was there, was running, or never was."""
    assert workers.cancel(FIRST) is False
    workers.send(FIRST)
    assert workers.cancel(FIRST) is True
    workers.desk.plan("hold", SECOND)
    workers.start("one")
    workers.send(SECOND)
    workers.noted("one begun fresh new", SECOND)
    assert workers.cancel(SECOND) is False, "whoever runs it is told by its run's events"
    workers.desk.open(SECOND)
    workers.noted("one done", SECOND)
    workers.nothing_left()
    workers.send(FIRST, SECOND)

    until_sync(lambda: len(workers.begun(SECOND)) == 2, timeout_seconds=WAIT_SECONDS)
    workers.noted("one done", FIRST)
    workers.nothing_left()
    assert "one cancelled" not in workers.notes(FIRST) + workers.notes(SECOND)


def test_saq_277_jobs_that_wait_in_a_worker_to_be_begun_are_not_taken_from_it(
    workers: WorkerProcesses,
) -> None:
    """The first one blocks the event loop before the others could begin."""
    ids = [job_id(number) for number in range(1, 11)]
    workers.desk.plan("block", FIRST)
    workers.desk.let_leave()
    workers.send(*ids)
    workers.start("slow")
    workers.noted("slow begun fresh new")
    workers.start("other")
    workers.leases_pass(3)
    workers.desk.open(FIRST)

    workers.all_done(ids)
    assert [workers.begun(one) for one in ids] == [["slow"]] * len(ids)


def test_taskiq_114_the_stream_and_all_keys_beside_it_are_empty_after_many_jobs(
    workers: WorkerProcesses,
) -> None:
    ids = [job_id(number) for number in range(1, 501)]
    workers.start("one")
    workers.start("two")
    workers.send(*ids)

    workers.all_done(ids)
    workers.nothing_left()
    assert Counter(note.what for note in workers.desk.notes())["done"] == len(ids)


# ------------------------------------------------------------------------------ killed workers


def test_arq_343_a_job_of_a_killed_worker_is_redelivered_to_a_live_one(
    workers: WorkerProcesses,
) -> None:
    workers.desk.plan("hold", FIRST)
    workers.send(FIRST)
    victim = workers.start("victim")
    workers.noted("victim begun fresh new")
    workers.start("heir")
    victim.kill()

    workers.noted("heir begun fresh redelivered")
    workers.desk.open(FIRST)
    workers.noted("heir done")
    workers.nothing_left()


def test_arq_343_a_job_of_a_killed_worker_is_redelivered_to_the_one_that_replaces_it(
    workers: WorkerProcesses,
) -> None:
    workers.desk.plan("hold", FIRST)
    workers.send(FIRST)
    victim = workers.start("victim")
    workers.noted("victim begun fresh new")
    victim.kill()
    victim.wait(WAIT_SECONDS)
    workers.desk.open(FIRST)
    workers.start("successor")

    workers.noted("successor done")
    workers.nothing_left()


def test_arq_267_no_deploy_uses_up_a_try(workers: WorkerProcesses) -> None:
    """SIGTERM hands the job over at once: no lease runs out, and no process ends badly."""
    workers.desk.plan("hold", FIRST)
    workers.send(FIRST)
    old = workers.start("v0", lease_seconds=60)
    workers.noted("v0 begun fresh new")
    for version in range(1, 4):
        new = workers.start(f"v{version}", lease_seconds=60)
        old.send_signal(signal.SIGTERM)
        workers.noted(f"v{version} begun handover new")
        assert old.wait(WAIT_SECONDS) == 0
        old = new
    workers.desk.open(FIRST)

    workers.noted("v3 done")
    assert "v0 stopped" in workers.notes()


def test_redis_9745_a_dead_consumer_keeps_what_it_held_until_that_is_taken_over(
    workers: WorkerProcesses,
) -> None:
    """XGROUP DELCONSUMER drops what is pending; the others are ghosts, and go."""
    workers.desk.plan("hold", FIRST)
    workers.send(FIRST)
    victim, idle = workers.start("victim"), None
    workers.noted("victim begun fresh new")
    victim.kill()
    victim.wait(WAIT_SECONDS)
    idle = workers.start("idle", lease_seconds=60)
    until_sync(lambda: len(_consumers(workers)) == 2, timeout_seconds=WAIT_SECONDS)
    idle.kill()
    idle.wait(WAIT_SECONDS)
    workers.forget_dead_consumers()

    assert [row["pending"] for row in _consumers(workers)] == [1]
    workers.desk.open(FIRST)
    workers.start("heir")
    workers.noted("heir done")


def test_taskiq_131_a_worker_killed_in_a_tick_of_cron_stops_neither_cron_nor_takeover(
    workers: WorkerProcesses,
) -> None:
    """The killed holder of a lock without a time-out stopped all reclaiming for good."""
    workers.desk.plan("hold", FIRST)
    workers.desk.plan("hold", TICK)
    victim = workers.start("victim", cron=True)
    workers.send(FIRST)
    workers.noted("victim begun fresh new")
    workers.noted("victim ticked", TICK)
    workers.desk.plan("end", TICK)
    workers.start("heir", cron=True)
    victim.kill()

    workers.noted("heir begun fresh redelivered")
    workers.noted("heir ticked", TICK)
    locks = list(workers.redis.scan_iter("*cron*"))
    assert locks
    for lock in locks:
        assert workers.redis.ttl(lock) != -1, "a lock that nobody would ever take away"


@pytest.mark.parametrize(
    "jobs",
    [
        pytest.param(100, id="100-jobs"),
        pytest.param(800, id="800-jobs", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
def test_taskiq_and_saq_jobs_under_steady_kills_all_end_and_only_the_killed_ones_come_again(
    workers: WorkerProcesses, jobs: int
) -> None:
    """taskiq doubled 24 of 800 such jobs, SAQ left 41 of them unfinished."""
    ids = [job_id(number) for number in range(1, jobs + 1)]
    workers.desk.plan("work 0.3")
    numbers = itertools.count(1)
    live = {name: workers.start(name, slots=4) for name in (f"w{next(numbers)}" for _ in range(2))}
    workers.send(*ids)
    killed: set[str] = set()
    pick = random.Random(jobs)  # noqa: S311 - which worker dies next
    while workers.done() < set(ids):
        last = len(workers.desk.notes())
        _let_pass(KILL_EVERY_SECONDS)
        until_sync(
            lambda last=last: len(workers.desk.notes()) > last or workers.done() >= set(ids),
            timeout_seconds=WAIT_SECONDS,
        )
        victim = pick.choice(sorted(live))
        live.pop(victim).kill()
        killed.add(victim)
        name = f"w{next(numbers)}"
        live[name] = workers.start(name, slots=4)

    workers.nothing_left()
    assert len(killed) >= 3
    _no_job_came_again_but_from(killed, workers.desk)


# ------------------------------------------------------------------------------ frozen workers


def test_streaq_dramatiq_pgqueuer_a_frozen_workers_job_does_not_run_twice_to_the_end(
    workers: WorkerProcesses,
) -> None:
    workers.desk.plan("hold", FIRST)
    workers.send(FIRST)
    frozen = workers.start("frozen")
    workers.noted("frozen begun fresh new")
    frozen.send_signal(signal.SIGSTOP)
    workers.start("heir")
    workers.noted("heir begun fresh redelivered")
    frozen.send_signal(signal.SIGCONT)

    workers.noted("frozen cancelled")
    assert workers.redis.xlen(names.JOB_STREAM) == 1, "it acknowledged nothing"
    assert workers.redis.hlen(names.JOB_INDEX) == 1
    workers.desk.open(FIRST)
    workers.noted("heir done")
    workers.nothing_left()
    assert "frozen done" not in workers.notes()


# ------------------------------------------------------------------------------ Redis goes


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(3, id="3-s"),
        pytest.param(60, id="60-s", marks=[pytest.mark.long, pytest.mark.timeout(150)]),
    ],
)
def test_arq_435_and_streaq_a_worker_survives_a_redis_that_is_down(
    valkey: Valkey, shaken: WorkerProcesses, seconds: int
) -> None:
    worker = _holding(shaken)
    valkey.stop()
    _let_pass(seconds)
    assert worker.poll() is None
    valkey.start()

    _goes_on(shaken, worker)


def test_arq_435_and_celery_8030_a_worker_hears_again_after_a_blip_of_its_connections(
    shaken: WorkerProcesses,
) -> None:
    worker = _holding(shaken)
    for _ in range(3):
        _cut_all_connections(shaken)

    _goes_on(shaken, worker)


def test_streaq_and_taskiq_a_worker_survives_flushall_and_hears_what_comes_after(
    shaken: WorkerProcesses,
) -> None:
    worker = _holding(shaken)
    for _ in range(3):
        shaken.redis.flushall()

    _goes_on(shaken, worker)


# ------------------------------------------------------------------------------ helpers


def _holding(workers: WorkerProcesses) -> Worker:
    """A worker that holds the first job."""
    workers.desk.plan("hold", FIRST)
    worker = workers.start("lasting")
    workers.send(FIRST)
    workers.noted("lasting begun fresh new")
    return worker


def _goes_on(workers: WorkerProcesses, worker: Worker) -> None:
    """The same process ends what it held, begun once, and takes what is sent now."""
    workers.send(SECOND)
    workers.noted("lasting done", SECOND)
    workers.desk.open(FIRST)
    workers.noted("lasting done")
    workers.nothing_left()
    assert workers.begun(FIRST) == ["lasting"]
    assert worker.poll() is None


def _cut_all_connections(workers: WorkerProcesses) -> None:
    """All but our own; when the next ones are open."""

    def others() -> list[str]:
        mine = workers.redis.client_id()
        return [one["id"] for one in workers.redis.client_list() if int(one["id"]) != mine]

    for one in until_sync(others, timeout_seconds=WAIT_SECONDS):
        workers.redis.execute_command("CLIENT", "KILL", "ID", one)


def _consumers(workers: WorkerProcesses) -> list[dict[str, int]]:
    return list(workers.redis.xinfo_consumers(names.JOB_STREAM, names.GROUP))


def _no_job_came_again_but_from(killed: set[str], desk: JobDesk) -> None:
    """A job begins again only when the worker that had begun it was killed."""
    begun: dict[str, list[str]] = {}
    for note in desk.notes():
        if note.what.startswith("begun"):
            begun.setdefault(note.job_id, []).append(note.name)
    for one, names_ in begun.items():
        assert set(names_[:-1]) <= killed, (one, names_)


def _let_pass(seconds: float) -> None:
    """For so long a server is away, or kills are apart: what the test is about, no pacing."""
    end = time.monotonic() + seconds
    until_sync(lambda: time.monotonic() > end, timeout_seconds=seconds + WAIT_SECONDS)
