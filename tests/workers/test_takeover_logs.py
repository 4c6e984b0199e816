"""Who took a run over from whom, in the log of the worker that did."""

import logging

import pytest

from tests.support.builders import RUN
from tests.support.driving import World
from tests.workers.test_driver_trouble import Waiting, crash

LOGGER = "workers.takeover"


async def test_a_takeover_names_the_worker_that_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    model = Waiting()
    world = World(model)
    await crash(world, model)
    model.go_on.set()

    with caplog.at_level(logging.INFO, LOGGER):
        await world.drive("resent")

    text = f"took over run {RUN} as attempt 2: its worker test-1 was lost"
    assert (LOGGER, logging.WARNING, text) in caplog.record_tuples


async def test_a_handover_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = Waiting()
    world = World(model)
    await crash(world, model)
    model.go_on.set()

    with caplog.at_level(logging.INFO, LOGGER):
        await world.drive("handover")

    text = f"took over run {RUN} as attempt 2: its worker test-1 handed it over"
    assert (LOGGER, logging.INFO, text) in caplog.record_tuples


async def test_a_worker_that_was_lost_before_it_wrote_anything_is_nobody_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    await world.request()

    with caplog.at_level(logging.INFO, LOGGER):
        await world.drive(redelivered=True)

    text = f"took over run {RUN} as attempt 2: its worker (none that wrote to it) was lost"
    assert (LOGGER, logging.WARNING, text) in caplog.record_tuples
