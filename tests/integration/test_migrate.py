"""Migrations: once each, whoever else starts at the same time, and whole or not at all."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from runs_domain.errors import MigrationFailed
from runs_domain.storage import migrate as migrations
from runs_domain.storage.migrate import MIGRATIONS, migrate
from tests.support.servers import execute
from workers.stack.servers import Servers

STARTS = 20
NAME = "migrated"


@pytest.fixture
def empty_url(servers: Servers) -> Iterator[str]:
    execute(servers, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(NAME)))
    yield servers.database_url(NAME, admin=True)
    execute(servers, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(NAME)))


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in rows}


def test_twenty_simultaneous_starts_apply_each_migration_once(empty_url: str) -> None:
    with ThreadPoolExecutor(STARTS) as pool:
        applied = [name for names in pool.map(migrate, [empty_url] * STARTS) for name in names]

    assert applied == sorted(file.stem for file in MIGRATIONS.glob("*.sql"))
    assert {"stored_events", "run_heads", "api_keys", "account_data_keys"} <= tables(empty_url)
    assert migrate(empty_url) == ()


def test_a_migration_that_fails_half_way_leaves_nothing_and_can_be_tried_again(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", tmp_path)
    (tmp_path / "0001_good.sql").write_text("CREATE TABLE good (id bigint);\n")
    (tmp_path / "0002_bad.sql").write_text("CREATE TABLE bad (id bigint);\nSELECT 1 / 0;\n")

    with pytest.raises(MigrationFailed, match="0001_good"):
        migrate(empty_url)
    assert {"good"} <= tables(empty_url)
    assert "bad" not in tables(empty_url)

    (tmp_path / "0002_bad.sql").write_text("CREATE TABLE bad (id bigint);\n")
    assert migrate(empty_url) == ("0002_bad",)
    assert {"good", "bad"} <= tables(empty_url)


def test_a_database_that_cannot_be_reached_is_a_named_failure(tmp_path: Path) -> None:
    with pytest.raises(MigrationFailed, match="OperationalError"):
        migrate(f"postgresql://nobody@/nothing?host={tmp_path}")
