"""Fixtures for all tests: real PostgreSQL and Valkey, once a session; a database for each test."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from runs_domain.storage.redis_client import PipelinedRedis
from tests.support.log_streams import SECRETS
from tests.support.redis_twins import own_valkey
from tests.support.servers import (
    Database,
    create_database,
    drop_database,
    make_template,
    temporary_servers,
)
from tests.support.stacks import BreakableStack, breakable_stack, prepared_data, quiet_stack
from workers.stack.servers import Servers
from workers.stack.stack import Stack
from workers.stack.valkey import Valkey

pytest_plugins = ("pytester", "tests.support.run_rules")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "settings: of the stack that the test breaks")


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
async def log(database: Database) -> AsyncIterator[PostgresEventLog]:
    """The log in `database`, as API and worker have it."""
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as opened:
        yield opened


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[ReconnectingConnection]:
    """As the service's role."""
    connection = ReconnectingConnection(Secret(database.url), name="reader")
    yield connection
    await connection.close()


@pytest.fixture
def redis_url(servers: Servers) -> Iterator[str]:
    """The session's Valkey, empty."""
    _flush(servers.redis_url)
    yield servers.redis_url
    _flush(servers.redis_url)


@pytest.fixture(name="redis")
async def redis_client(redis_url: str) -> AsyncIterator[PipelinedRedis]:
    client = PipelinedRedis(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A Valkey of the test's own, to break."""
    with own_valkey() as started:
        yield started


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


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A whole stack of real processes, one worker; tests share it and must not break it.

    `stack.details` has what a client needs.
    """
    with quiet_stack() as ready:
        yield ready


@pytest.fixture(scope="session")
def prepared() -> Iterator[Path]:
    with prepared_data() as place:
        yield place


@pytest.fixture
def broken(request: pytest.FixtureRequest, prepared: Path) -> Iterator[BreakableStack]:
    """A stack of the test's own, to break; it comes without workers.

    `@pytest.mark.settings(lease_seconds="1")` changes its settings.
    """
    marker = request.node.get_closest_marker("settings")
    with breakable_stack(prepared, {} if marker is None else marker.kwargs) as ready:
        yield ready


def _flush(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=5.0) as client:
        client.flushall()
