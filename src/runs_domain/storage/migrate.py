"""Brings a database's tables up to this release: plain SQL files, in the order of their names.

yoyo keeps the book of what was applied. Two of its habits are not safe enough here and are
replaced: its lock is a row that a killed process leaves behind (ours is an advisory lock), and it
commits a migration before it books it (ours is one transaction).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from typing_extensions import override
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend

from runs_domain.errors import MigrationFailed

MIGRATIONS: Final = Path(__file__).with_name("migrations")
CONNECT_SECONDS: Final = 10
LOCK_WAIT_SECONDS: Final = 120
"""How long one of many simultaneous starts waits for the one that migrates."""
MIGRATION_LOCK: Final = 125848689340264


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]  # yoyo ships no types
    _is_locked: bool = False

    @override
    def connect(self, dburi: str) -> "psycopg.Connection[Any]":
        return psycopg.connect(
            dburi,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="runledger migrate",
            options="-c client_min_messages=warning",
        )

    @override
    def list_tables(self, **kwargs: Any) -> list[str]:
        rows = self.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return [row[0] for row in rows]

    @contextmanager
    @override
    def lock(self, timeout: float = LOCK_WAIT_SECONDS) -> Iterator[None]:
        if self._is_locked:
            yield
            return
        self.execute(f"SET lock_timeout = '{timeout}s'")
        self.execute(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
        self._is_locked = True
        try:
            yield
        finally:
            self._is_locked = False
            self.connection.close()

    @override
    def apply_one(self, migration: Any, force: bool = False, mark: bool = True) -> None:
        with self.transaction():
            migration.process_steps(self, "apply", force=force)
            self.mark_one(migration, log=False)


def migrate(admin_url: str) -> tuple[str, ...]:
    """Apply what is missing; the names of what was applied. Safe to call many times at once.

    Raises MigrationFailed, with the name of the migration's error but no value of the database's.
    """
    applied: list[str] = []
    try:
        with _Backend(admin_url, "_yoyo_migration") as backend, backend.lock():
            for migration in backend.to_apply(read_migrations(str(MIGRATIONS))):
                backend.apply_one(migration)
                applied.append(migration.id)
    except psycopg.Error as error:
        raise MigrationFailed(
            f"after {applied or 'nothing'}: {type(error).__name__} {error.sqlstate or ''}".strip()
        ) from error
    return tuple(applied)
