"""What the processes' role may do to the log: add to it and read it, and nothing else."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.support.servers import create_database, drop_database
from tests.support.tampering import Log
from workers.stack.servers import SERVICE, Servers


@pytest.fixture(scope="module")
def log(servers: Servers) -> Iterator[Log]:
    database = create_database(servers)
    with ExitStack() as connections:
        yield Log(database, connections)
    drop_database(servers, database)


@pytest.fixture
def service(log: Log) -> "Iterator[psycopg.Connection[Any]]":
    with psycopg.connect(log.database.url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stored_events SET state = ''",
        "UPDATE stored_events SET topic = 'x' WHERE false",
        "UPDATE stored_events SET notification_id = 1 WHERE false",
        "DELETE FROM stored_events",
        "DELETE FROM stored_events WHERE false",
        "TRUNCATE stored_events",
        "MERGE INTO stored_events USING (SELECT) ON false WHEN MATCHED THEN DELETE",
        """INSERT INTO stored_events SELECT * FROM stored_events
        ON CONFLICT (originator_id, originator_version) DO UPDATE SET state = ''""",
        "SELECT * FROM stored_events FOR UPDATE",
        "LOCK TABLE stored_events IN ACCESS EXCLUSIVE MODE",
        "ALTER TABLE stored_events DISABLE TRIGGER ALL",
        "ALTER TABLE stored_events DROP COLUMN state",
        "ALTER TABLE stored_events OWNER TO CURRENT_USER",
        "ALTER TABLE stored_events RENAME TO others",
        "ALTER TABLE stored_events ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY hide ON stored_events USING (false)",
        "CREATE RULE hide AS ON INSERT TO stored_events DO INSTEAD NOTHING",
        """CREATE TRIGGER hide BEFORE INSERT ON stored_events
        FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()""",
        "CREATE INDEX ON stored_events (topic)",
        "DROP INDEX stored_events_notification_id_idx",
        "DROP TABLE stored_events CASCADE",
        "SELECT setval('stored_events_notification_id_seq', 1)",
        "ALTER SEQUENCE stored_events_notification_id_seq RESTART",
        "CREATE TABLE beside (LIKE stored_events)",
        "CREATE SCHEMA beside",
        "DROP FUNCTION append_batch",
        "ALTER FUNCTION append_batch SECURITY DEFINER",
        "SET session_replication_role = 'replica'",
        "SET ROLE {owner}",
        "SET SESSION AUTHORIZATION {owner}",
        "GRANT {owner} TO CURRENT_USER",
        "ALTER ROLE {owner} PASSWORD 'x'",
        "CREATE ROLE another",
        "COPY stored_events TO '/dev/null'",
    ],
)
def test_the_processes_role_is_refused(
    log: Log, service: "psycopg.Connection[Any]", statement: str
) -> None:
    before = log.as_owner("SELECT count(*), sum(hashtext(state::text)) FROM stored_events")
    ((owner,),) = log.as_owner("SELECT quote_ident(current_user)")
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        service.transaction(force_rollback=True),
    ):
        service.execute(statement.format(owner=owner).encode())
    assert log.as_owner("SELECT count(*), sum(hashtext(state::text)) FROM stored_events") == before


def test_a_copy_over_events_that_are_there_is_refused_by_their_key(
    log: Log, service: "psycopg.Connection[Any]"
) -> None:
    with (
        pytest.raises(psycopg.errors.UniqueViolation),
        service.cursor() as cursor,
        cursor.copy("COPY stored_events (originator_id, originator_version) FROM STDIN") as copy,
    ):
        copy.write_row((log.done, 1))


def test_the_processes_role_adds_and_reads(log: Log, service: "psycopg.Connection[Any]") -> None:
    assert service.execute("SELECT count(*) FROM stored_events").fetchall() == log.as_owner(
        "SELECT count(*) FROM stored_events"
    )
    with service.transaction(force_rollback=True):
        service.execute(
            "INSERT INTO stored_events (originator_id, originator_version) VALUES (%s, 5)",
            (log.live,),
        )


def test_the_processes_role_owns_nothing_and_is_nobody_else(
    service: "psycopg.Connection[Any]",
) -> None:
    (attributes,) = service.execute(
        """SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
        FROM pg_roles WHERE rolname = current_user"""
    )
    assert not any(attributes)
    roles = service.execute(
        "SELECT rolname FROM pg_roles WHERE pg_has_role(oid, 'MEMBER') ORDER BY rolname"
    ).fetchall()
    assert roles == [(SERVICE,), ("runledger_service",)]
    for table, owner in (
        ("pg_class", "relowner"),
        ("pg_proc", "proowner"),
        ("pg_namespace", "nspowner"),
        ("pg_database", "datdba"),
    ):
        owned = service.execute(
            f"SELECT count(*) FROM {table} WHERE pg_has_role({owner}, 'MEMBER')".encode()  # noqa: S608
        ).fetchall()
        assert owned == [(0,)]


def test_the_processes_role_has_just_these_rights_on_the_log(
    service: "psycopg.Connection[Any]",
) -> None:
    """Of the table, of each of its columns, and of its sequence."""
    allowed = {
        "table": {"SELECT", "INSERT"},
        "column": {"SELECT", "INSERT"},
        "sequence": {"USAGE"},
    }
    asked = {
        "table": "SELECT has_table_privilege('stored_events', %s)",
        "column": "SELECT has_any_column_privilege('stored_events', %s)",
        "sequence": "SELECT has_sequence_privilege('stored_events_notification_id_seq', %s)",
    }
    rights = {
        "table": ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"),
        "column": ("SELECT", "INSERT", "UPDATE", "REFERENCES"),
        "sequence": ("USAGE", "SELECT", "UPDATE"),
    }
    for what, query in asked.items():
        held = {
            right
            for right in rights[what]
            if service.execute(query.encode(), (right,)).fetchone() == (True,)
        }
        assert held == allowed[what]
