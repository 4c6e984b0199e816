"""The points themselves: counted once a place, nothing at all while they are off."""

import logging
import os
import signal
from typing import Any, cast

import pytest

from runs_domain.crash_at import POINTS, RECORD
from runs_domain.storage.crash_points import CrashPoints, replaced
from workers.crash_points import WorkerCrashPoints


class Killed(BaseException):
    pass


class Refused(Exception):
    pass


@pytest.fixture(autouse=True)
def not_really(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        raise Killed

    monkeypatch.setattr(os, "kill", kill)


def test_nothing_stands_around_a_port_while_points_are_off() -> None:
    off, port = CrashPoints(""), cast("Any", object())
    worker = WorkerCrashPoints(off)

    wraps = (
        off.jobs,
        worker.chunks,
        worker.deliveries,
        worker.key_leases,
        worker.log,
        worker.model,
        worker.sandboxes,
        worker.tools,
    )
    assert all(wrap(port) is port for wrap in wraps)


def test_a_process_is_killed_at_the_nth_time_alone() -> None:
    points = CrashPoints("tool.after:2")

    for _ in range(2):
        points.reached("tool.before")
    points.reached("tool.after")
    with pytest.raises(Killed):
        points.reached("tool.after")


def test_what_comes_several_at_once_counts_as_several() -> None:
    points = CrashPoints("chunk.before:7")

    points.reached("chunk.before", times=6)
    points.reached("chunk.before", times=0)
    with pytest.raises(Killed):
        points.reached("chunk.before", times=3)


@pytest.mark.parametrize("setting", ["record", "append.after:1"])
def test_what_was_not_done_has_no_point_after_it(
    setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    points = CrashPoints(setting)
    caplog.clear()

    def refuse() -> None:
        with points.around("append", what="completed"):
            raise Refused

    with pytest.raises(Refused):
        refuse()
    assert caplog.messages == ["crash point append.before:1 completed"]


def test_what_has_points_is_as_ever_in_all_other_respects() -> None:
    class Port:
        name = "local"

        def find(self) -> str:
            return "found"

        def open(self) -> str:
            return "open"

    port = replaced(Port(), open=lambda: "wrapped")

    assert (port.name, port.find(), port.open()) == ("local", "found", "wrapped")


def test_every_before_has_its_after() -> None:
    alone = {"model.streaming", "take.after", "send.before"}
    names = {point.partition(".")[0] for point in set(POINTS) - alone}

    assert set(POINTS) - alone == {
        f"{name}.{when}" for name in names for when in ("before", "after")
    }


def test_a_process_that_is_to_kill_itself_says_so_at_its_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    CrashPoints("")
    CrashPoints(RECORD)
    assert "kill itself" not in caplog.text

    CrashPoints("append.before:2")

    text = "this process will kill itself at append.before:2 (RUNLEDGER_CRASH_AT)"
    assert [(one.levelno, one.message) for one in caplog.records] == [(logging.WARNING, text)]
