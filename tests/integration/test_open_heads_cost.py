"""The reconciler's look at the open runs costs what they are, not what lies beside them."""

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from runs_domain.ids import RunId
from runs_domain.storage import lean_reads
from runs_domain.storage.connection import Connection
from runs_domain.storage.postgres_log import PostgresEventLog
from tests.support.servers import Database
from workers.reconciler import PAGE_HEADS_MAX, RESEND_GRACE_SECONDS

AT_REST = 100_000
OPEN = 20
CHURNED = 20_000
BUFFERS_PER_RUN_MAX = 3
"""Its row, a look for a letter, and its share of the index."""
BUFFERS_BESIDES_MAX = 10
INDEXES = {"run_heads_open", "dead_letters_withheld"}

_LOAD = """
    INSERT INTO run_heads (
        run_id, account_id, chat_id, session_id, version, status, live, open, head_hash,
        requested_position, updated_at
    )
    SELECT md5(number::text)::uuid, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 9,
        'completed', false, %s, '', number, now() - interval '1 minute'
    FROM generate_series(%s::integer, %s::integer) AS number"""
_BURY = """
    INSERT INTO dead_letters (kind, id, reason, account_id, last_error, tries, withheld)
    SELECT 'run', run_id, %s, account_id, 'KeyError', 5, %s FROM run_heads WHERE open = %s LIMIT %s
"""


class Look(NamedTuple):
    found: int
    buffers: int
    nodes: set[str]
    indexes: set[str]

    def is_bounded(self, runs: int) -> bool:
        return self.buffers <= BUFFERS_PER_RUN_MAX * runs + BUFFERS_BESIDES_MAX


@pytest.fixture
def admin(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """The table is vacuumed when the test says so."""
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE run_heads SET (autovacuum_enabled = false)")
        yield connection


def load(admin: psycopg.Connection[Any], count: int, *, after: int, is_open: bool) -> None:
    admin.execute(_LOAD, (is_open, after + 1, after + count))


async def look(log: PostgresEventLog, *, after: RunId | None = None, kept_plan: bool) -> Look:
    """The query itself, on the log's own connection: planned for these values, or for any."""
    numbers = itertools.count(1)
    sql = re.sub("%b", lambda _: f"${next(numbers)}", lean_reads._OPEN_HEADS)
    mode = "force_generic_plan" if kept_plan else "force_custom_plan"
    value = f"'{after}'" if after else "NULL"

    async def ask(connection: Connection) -> Any:
        await connection.execute(f"SET plan_cache_mode = {mode}".encode())
        await connection.execute(f"PREPARE look AS {sql}".encode())
        execute = f"look({value}, {value}, {RESEND_GRACE_SECONDS}, {PAGE_HEADS_MAX})"
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {execute}"
        cursor = await connection.execute(explain.encode())
        rows = await cursor.fetchall()
        await connection.execute("DEALLOCATE look")
        return rows[0][0][0]["Plan"]

    plan = await log._connection.run(ask)
    nodes = list(_nodes(plan))
    return Look(
        found=int(plan["Actual Rows"]),
        buffers=plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
        nodes={node["Node Type"] for node in nodes},
        indexes={node["Index Name"] for node in nodes if "Index Name" in node},
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


@pytest.mark.parametrize("kept_plan", [False, True])
@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_hundred_thousand_runs_at_rest_cost_a_look_nothing(
    log: PostgresEventLog, admin: psycopg.Connection[Any], kept_plan: bool, analyzed: bool
) -> None:
    load(admin, OPEN, after=AT_REST, is_open=True)
    alone = await look(log, kept_plan=kept_plan)
    load(admin, AT_REST, after=0, is_open=False)
    admin.execute(_BURY, ("tries_exhausted", False, False, AT_REST // 10))
    admin.execute(_BURY, ("broken", True, True, OPEN // 4))
    if analyzed:
        admin.execute("ANALYZE run_heads, dead_letters")

    among_many = await look(log, kept_plan=kept_plan)

    assert (alone.found, among_many.found) == (OPEN, OPEN - OPEN // 4)
    assert among_many.indexes == INDEXES
    assert among_many.nodes == {"Limit", "Nested Loop", "Index Scan", "Index Only Scan"}
    assert alone.is_bounded(OPEN)
    assert among_many.is_bounded(OPEN)


async def test_each_page_of_a_long_list_costs_what_is_on_it(
    log: PostgresEventLog, admin: psycopg.Connection[Any]
) -> None:
    load(admin, CHURNED, after=0, is_open=True)
    admin.execute("ANALYZE run_heads")
    ((middle,),) = admin.execute(
        "SELECT run_id FROM run_heads ORDER BY run_id OFFSET %s LIMIT 1", [CHURNED // 2]
    ).fetchall()

    first = await look(log, kept_plan=False)
    later = await look(log, after=middle, kept_plan=False)

    assert first.found == later.found == PAGE_HEADS_MAX
    assert first.is_bounded(PAGE_HEADS_MAX)
    assert later.is_bounded(PAGE_HEADS_MAX)


async def test_runs_that_were_open_once_cost_one_look_and_then_their_place_in_the_index(
    log: PostgresEventLog, admin: psycopg.Connection[Any]
) -> None:
    """Before the next vacuum; a look passes by the index entries that the last one marked."""
    load(admin, OPEN, after=CHURNED, is_open=True)
    load(admin, CHURNED, after=0, is_open=True)
    admin.execute("UPDATE run_heads SET open = false WHERE requested_position <= %s", [CHURNED])
    ((pages,),) = admin.execute(
        "SELECT pg_relation_size('run_heads_open') / current_setting('block_size')::integer"
    ).fetchall()

    first = await look(log, kept_plan=False)
    second = await look(log, kept_plan=False)
    admin.execute("VACUUM run_heads")
    vacuumed = await look(log, kept_plan=False)

    assert first.found == second.found == vacuumed.found == OPEN
    assert first.buffers > CHURNED
    assert second.buffers <= pages + BUFFERS_PER_RUN_MAX * OPEN + BUFFERS_BESIDES_MAX
    assert vacuumed.is_bounded(OPEN)
