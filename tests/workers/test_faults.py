"""Whatever breaks, logs and the terminal say what and where, never an exception's text."""

import io
import logging
import sys

import pytest

from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.memory_jobs import MemoryJobs
from tests.support.driving import SECRETS, TestClock
from workers import cli
from workers.faults import PlacesOnly
from workers.reconciler import Reconciler, reconcile_cron

CANARY = "s3CRET-canary"


def broken() -> None:
    try:
        int(CANARY)
    except ValueError as error:
        raise ExceptionGroup(CANARY, [KeyError(CANARY)]) from error


async def test_invariant_6_a_tick_that_breaks_shows_arq_nothing_to_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = TestClock()
    reconciler = Reconciler(MemoryEventLog(SECRETS, clock), MemoryJobs())
    monkeypatch.setattr(reconciler, "_pass", broken)

    await reconcile_cron(reconciler).coroutine({})

    assert reconciler.counters.failed_ticks == 1
    assert "a look at the open runs: ExceptionGroup" in caplog.text
    assert CANARY not in caplog.text


def test_invariant_6_a_command_that_breaks_says_what_and_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["runledger", "migrate"])
    monkeypatch.setitem(cli.COMMANDS, "migrate", (lambda _: broken(), ""))

    with pytest.raises(SystemExit) as ended:
        cli.main()

    said = capsys.readouterr().err
    assert ended.value.code == 1
    for what in ("ExceptionGroup", "ValueError", "KeyError", "in broken"):
        assert what in said
    assert CANARY not in said


def test_invariant_6_a_library_that_logs_its_exception_does_not_show_its_text() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(PlacesOnly("%(message)s"))
    logger = logging.Logger("somebody's")  # noqa: LOG001 - one of its own
    logger.addHandler(handler)

    try:
        broken()
    except ExceptionGroup:
        logger.exception("it broke")

    assert "it broke\nExceptionGroup" in out.getvalue()
    assert CANARY not in out.getvalue()
