from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.lanes import lane_stacks, opened_lanes
from tests.support.rest import Rest
from tests.support.stacks import BreakableStack
from tests.support.sweep import Lane
from tests.support.worker_processes import WorkerProcesses
from workers.stack.valkey import Valkey


@pytest.fixture
async def client(broken: BreakableStack) -> AsyncIterator[Rest]:
    async with Rest(broken.details["baseUrl"], broken.details["apiKey"]) as rest:
        yield rest


@pytest.fixture
def workers(redis_url: str, tmp_path: Path) -> Iterator[WorkerProcesses]:
    """Worker processes on the session's Valkey."""
    with WorkerProcesses(redis_url, tmp_path) as started:
        yield started


@pytest.fixture
def shaken(valkey: Valkey, tmp_path: Path) -> Iterator[WorkerProcesses]:
    """Worker processes on `valkey`."""
    with WorkerProcesses(valkey.url(), tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def stacks(prepared: Path) -> Iterator[list[BreakableStack]]:
    with lane_stacks(prepared) as started:
        yield started


@pytest.fixture
async def lanes(stacks: list[BreakableStack]) -> AsyncIterator[list[Lane]]:
    """For sweeps: stacks without workers that share a model's server."""
    async with opened_lanes(stacks) as opened:
        yield opened


TABLE = "table"


@pytest.fixture
def show(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """For what people may want to see of a test that passed; printed at the end of the session.

    It goes with the test's report, which another process may have to send.
    """

    def table(text: str) -> None:
        request.node.user_properties.append((TABLE, text))

    return table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call":
                for name, text in report.user_properties:
                    if name == TABLE:
                        terminalreporter.write_line(f"\n{text}")
