"""Real servers for tests, and a fresh database for each of them."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from runs_domain.storage.migrate import migrate
from workers.stack.roles import create_service_login
from workers.stack.servers import Servers

TEMPLATE = "runledger_template"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    name: str
    url: str
    """As the service's role: what API, worker and projector get."""
    admin_url: str
    """As the owner: what migrations and the ops scripts get."""


@contextmanager
def temporary_servers() -> Iterator[Servers]:
    """A stopped pair of servers under a short path; stopped and removed at the end.

    Safe against kills, not against power loss.
    """
    place = Path(tempfile.mkdtemp(prefix="rl-"))
    try:
        servers = Servers(place, durable=False)
        try:
            yield servers
        finally:
            servers.stop()
    finally:
        shutil.rmtree(place)


def make_template(servers: Servers) -> None:
    """The migrated database that each test's own one is a copy of."""
    execute(servers, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    migrate(servers.database_url(TEMPLATE, admin=True))
    create_service_login(servers)


def create_database(servers: Servers) -> Database:
    """A copy of the template; `make_template` came before."""
    name = f"test_{next(_numbers)}"
    execute(
        servers,
        sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
            sql.Identifier(name), sql.Identifier(TEMPLATE)
        ),
    )
    return Database(name, servers.database_url(name), servers.database_url(name, admin=True))


def drop_database(servers: Servers, database: Database) -> None:
    """Also while connections are open."""
    execute(servers, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database.name)))


def as_owner(database: Database, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """One statement, committed when it is done; its rows, if it gives some."""
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def execute(servers: Servers, statement: sql.Composed) -> None:
    """One statement as the owner, outside any transaction."""
    url = servers.database_url("postgres", admin=True)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
