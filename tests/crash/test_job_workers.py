"""Real worker processes whose event loop is blocked."""

import pytest

from tests.support.job_desk import job_id
from tests.support.worker_processes import FIRST, WorkerProcesses

pytestmark = pytest.mark.crash

SECOND = job_id(2)


def test_a_blocked_event_loop_keeps_its_lease(workers: WorkerProcesses) -> None:
    workers.desk.plan("block", FIRST)
    workers.send(FIRST)
    workers.start("blocked")
    workers.noted("blocked begun fresh new")
    workers.start("other")
    workers.leases_pass(4)

    workers.desk.let_leave()
    workers.desk.open(FIRST)
    workers.noted("blocked done")
    assert workers.begun() == ["blocked"]


def test_an_event_loop_blocked_past_the_watchdog_loses_its_lease(workers: WorkerProcesses) -> None:
    workers.desk.plan("block", FIRST)
    workers.send(FIRST)
    workers.start("wedged", watchdog_seconds=0.5)
    workers.noted("wedged begun fresh new")
    workers.desk.plan("hold", FIRST)
    workers.start("heir")

    workers.noted("heir begun fresh redelivered")
    workers.desk.open(FIRST)
    workers.noted("heir done")
    workers.noted("wedged cancelled")


def test_a_job_that_came_while_the_event_loop_was_blocked_and_went_elsewhere_is_not_begun(
    workers: WorkerProcesses,
) -> None:
    """Redis had given it to the blocked worker, which could not even know."""
    workers.desk.plan("block", FIRST)
    workers.desk.plan("hold", SECOND)
    workers.send(FIRST)
    workers.start("blocked")
    workers.noted("blocked begun fresh new")
    workers.send(SECOND)
    workers.start("heir")
    workers.noted("heir begun fresh redelivered", SECOND)

    workers.desk.let_leave()
    workers.desk.open(FIRST)
    workers.noted("blocked done")
    workers.leases_pass(1)
    workers.desk.open(SECOND)
    workers.noted("heir done", SECOND)
    workers.nothing_left()
    assert workers.begun(SECOND) == ["heir"]
