"""Fixtures for all tests: real PostgreSQL and Valkey, once a session; a database for each test.

`--long` adds the sweeps. With CI=true a skipped test fails the run.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.servers import (
    Database,
    create_database,
    drop_database,
    make_template,
    temporary_servers,
)
from workers.stack.servers import Servers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the sweeps")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    sweeps = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if not item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=sweeps)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED:
        terminalreporter.write_line(f"NOT TESTED HERE: {len(skipped)} skipped, see above", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The session's servers; tests share them and must not stop them."""
    with temporary_servers() as started:
        started.start()
        make_template(started)
        yield started


@pytest.fixture
def database(servers: Servers) -> Iterator[Database]:
    """A fresh, migrated database of the test's own."""
    fresh = create_database(servers)
    yield fresh
    drop_database(servers, fresh)


@pytest.fixture
def redis_url(servers: Servers) -> Iterator[str]:
    """The session's Valkey, empty."""
    _flush(servers.redis_url)
    yield servers.redis_url
    _flush(servers.redis_url)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty directory whose path is short enough for sockets; pytest's own is not."""
    path = Path(tempfile.mkdtemp(prefix="rl-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def own_servers() -> Iterator[Servers]:
    """Started servers of the test's own, with a template: it may stop, kill and start them.

    `own_servers.postgres.stop(at_once=True)`, `.postgres.start()`, `.valkey.…` likewise.
    """
    with temporary_servers() as started:
        started.start()
        make_template(started)
        yield started


@pytest.fixture
def own_database(own_servers: Servers) -> Database:
    """A fresh, migrated database on `own_servers`."""
    return create_database(own_servers)


def _flush(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=5.0) as client:
        client.flushall()
