"""Real worker processes that are killed, frozen, blocked and stopped."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import UUID

import pytest
import redis

from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_jobs import JOB_KEYS, job_script
from tests.support.job_worker import NOTES, STAY, gate_key, plan_key
from tests.support.redis_twins import ACCOUNT
from tests.support.waiting import until_sync

pytestmark = pytest.mark.crash

ID = str(UUID(int=1))
LEASE_SECONDS = 1.0
WAIT_SECONDS = 20.0

Worker = subprocess.Popen[bytes]
Start = Callable[..., Worker]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, socket_timeout=5.0) as client:
        yield client


@pytest.fixture
def start(redis_url: str) -> Iterator[Start]:
    """Start a worker process by name; all are gone at the end."""
    with ExitStack() as processes:

        def started(name: str, *, watchdog_seconds: float = 60.0) -> Worker:
            command = [sys.executable, "-m", "tests.support.job_worker", redis_url, name]
            worker = subprocess.Popen(  # noqa: S603 - our own program
                [*command, str(LEASE_SECONDS), str(watchdog_seconds)]
            )
            processes.callback(_end, worker)
            return worker

        yield started


def test_a_job_of_a_killed_worker_is_redelivered_to_a_live_one(
    client: redis.Redis, start: Start
) -> None:
    """python-arq #343: stuck after a crash. Vercel's engine wedged runs for good under kill -9."""
    client.set(plan_key(ID), "hold")
    _send(client)
    victim = start("victim")
    _noted(client, "victim begun fresh new")
    start("heir")
    victim.kill()

    _noted(client, "heir begun fresh redelivered")
    client.rpush(gate_key(ID), 1)
    _noted(client, "heir done")
    until_sync(lambda: client.xlen(names.JOB_STREAM) == 0, timeout_seconds=WAIT_SECONDS)


def test_a_worker_frozen_past_its_lease_loses_the_job_and_acknowledges_nothing(
    client: redis.Redis, start: Start
) -> None:
    """streaq, dramatiq and pgqueuer ran a stalled worker's job twice to the end."""
    client.set(plan_key(ID), "hold")
    _send(client)
    frozen = start("frozen")
    _noted(client, "frozen begun fresh new")
    frozen.send_signal(signal.SIGSTOP)
    start("heir")
    _noted(client, "heir begun fresh redelivered")
    frozen.send_signal(signal.SIGCONT)

    _noted(client, "frozen cancelled")
    assert client.xlen(names.JOB_STREAM) == 1
    assert client.hlen(names.JOB_INDEX) == 1
    client.rpush(gate_key(ID), 1)
    _noted(client, "heir done")
    until_sync(lambda: client.xlen(names.JOB_STREAM) == 0, timeout_seconds=WAIT_SECONDS)
    assert "frozen done" not in _notes(client)


def test_a_blocked_event_loop_keeps_its_lease(client: redis.Redis, start: Start) -> None:
    client.set(plan_key(ID), "block")
    _send(client)
    start("blocked")
    _noted(client, "blocked begun fresh new")
    start("other")
    _let_leases_pass(client, 4)

    client.rpush(STAY, 1)
    client.rpush(gate_key(ID), 1)
    _noted(client, "blocked done")
    assert not [note for note in _notes(client) if note.startswith("other")]


def test_an_event_loop_blocked_past_the_watchdog_loses_its_lease(
    client: redis.Redis, start: Start
) -> None:
    client.set(plan_key(ID), "block")
    _send(client)
    start("wedged", watchdog_seconds=0.5)
    _noted(client, "wedged begun fresh new")
    client.set(plan_key(ID), "hold")
    start("heir")

    _noted(client, "heir begun fresh redelivered")
    client.rpush(gate_key(ID), 1)
    _noted(client, "heir done")
    _noted(client, "wedged cancelled")


def test_sigterm_hands_the_job_over_and_the_process_ends_well(
    client: redis.Redis, start: Start
) -> None:
    client.set(plan_key(ID), "hold")
    _send(client)
    leaving = start("leaving")
    _noted(client, "leaving begun fresh new")
    start("heir")
    leaving.send_signal(signal.SIGTERM)

    _noted(client, "heir begun handover new")
    assert leaving.wait(WAIT_SECONDS) == 0
    assert "leaving stopped" in _notes(client)
    client.rpush(gate_key(ID), 1)
    _noted(client, "heir done")


def test_dead_consumers_keep_what_they_held_until_it_is_taken_over(
    client: redis.Redis, start: Start
) -> None:
    """redis #9745: deleting a dead consumer dropped its pending entries."""
    client.set(plan_key(ID), "hold")
    _send(client)
    victim = start("victim")
    _noted(client, "victim begun fresh new")
    victim.kill()
    victim.wait(WAIT_SECONDS)
    forget = job_script("job_forget")
    client.eval(forget.text, len(JOB_KEYS), *JOB_KEYS, names.GROUP, "0", "")

    assert len(client.xinfo_consumers(names.JOB_STREAM, names.GROUP)) == 1


def _send(client: redis.Redis) -> None:
    send = job_script("job_send")
    client.eval(send.text, len(JOB_KEYS), *JOB_KEYS, names.GROUP, "run", ID, ACCOUNT, "fresh")


def _notes(client: redis.Redis) -> list[str]:
    return [note.decode() for note in client.lrange(NOTES, 0, -1)]


def _noted(client: redis.Redis, note: str) -> None:
    def noted() -> bool:
        return note in _notes(client)

    until_sync(noted, timeout_seconds=WAIT_SECONDS)


def _let_leases_pass(client: redis.Redis, count: int) -> None:
    """By the server's clock, which leases are counted in."""
    end = client.time()[0] + count * LEASE_SECONDS
    until_sync(lambda: client.time()[0] > end, timeout_seconds=WAIT_SECONDS)


def _end(worker: Worker) -> None:
    worker.kill()
    worker.wait(WAIT_SECONDS)
