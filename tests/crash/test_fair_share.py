"""Fair share, end to end: real worker processes, and an account that has sent far too much."""

import pytest

from runs_domain.storage import redis_names as names
from runs_domain.storage.redis_jobs import JOB_KEYS, job_script
from tests.support.job_desk import job_id
from tests.support.waiting import until_sync
from tests.support.worker_processes import WAIT_SECONDS, WorkerProcesses

pytestmark = pytest.mark.crash

SLOTS = 8
JOBS = 300
OTHERS = [job_id(1_000 + number) for number in range(40)]
OTHER = "01890000-0000-7000-8000-0000000000bb"


@pytest.mark.parametrize("fleet", [{"one": SLOTS}, {"one": SLOTS // 2, "two": SLOTS // 2}])
def test_another_accounts_job_begins_next_behind_three_hundred_of_one(
    workers: WorkerProcesses, fleet: dict[str, int]
) -> None:
    many = [job_id(number) for number in range(JOBS)]
    workers.desk.plan("hold")
    workers.send(*many)
    for name, slots in fleet.items():
        workers.start(name, slots=slots)
    until_sync(lambda: len(_begun(workers)) == SLOTS, timeout_seconds=WAIT_SECONDS)
    assert set(_begun(workers)) == set(many[:SLOTS])  # alone, it has every slot

    _send_for_the_other(workers, *OTHERS)
    for number, one in enumerate(many[:SLOTS]):
        workers.desk.open(one)
        until_sync(
            lambda number=number: len(_begun(workers)) == SLOTS + number + 1,
            timeout_seconds=WAIT_SECONDS,
        )
    # The other came next, up to its share; then they took turns.
    assert set(_begun(workers)[SLOTS : SLOTS + SLOTS // 2]) == set(OTHERS[: SLOTS // 2])
    assert set(_begun(workers)[SLOTS + SLOTS // 2 :]) == set(many[SLOTS : SLOTS + SLOTS // 2])

    workers.desk.plan("end")
    for one in (*many, *OTHERS):
        workers.desk.open(one)
    workers.all_done([*many, *OTHERS])
    assert len(_begun(workers)) == JOBS + len(OTHERS)  # each once
    workers.nothing_left()


def _begun(workers: WorkerProcesses) -> list[str]:
    return [note.job_id for note in workers.desk.notes() if note.what.startswith("begun")]


def _send_for_the_other(workers: WorkerProcesses, *ids: str) -> None:
    send = job_script("job_send")
    for one in ids:
        args = (names.GROUP, "run", one, OTHER, "fresh")
        workers.redis.eval(send.text, len(JOB_KEYS), *JOB_KEYS, *args)
