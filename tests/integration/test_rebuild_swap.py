"""The end of a rebuild: what is caught up on, and the moment in which the new table takes over."""

import pytest

from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.rebuild import CannotRebuild
from tests.support.rebuilds import left_behind, projected, rebuild_here, some_runs
from tests.support.servers import Database, as_owner


async def test_what_hangs_on_a_replaced_table_fails_no_rebuild_that_is_through(
    database: Database, log: PostgresEventLog
) -> None:
    """A function's body is not looked for before: it is told by the table's drop alone."""
    await some_runs(log, 3)
    await projected(database, log)
    as_owner(
        database,
        "CREATE FUNCTION mine() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM runs; END",
    )

    said = await rebuild_here(database, "runs", "credits")

    assert set(said.swap_ms) == {"runs", "credits"}
    assert tables_left(database) == ["runs__replaced"]
    assert set((await rebuild_here(database, "credits")).swap_ms) == {"credits"}
    with pytest.raises(CannotRebuild, match="runs__replaced cannot be dropped: something hangs"):
        await rebuild_here(database, "runs")
    as_owner(database, "DROP FUNCTION mine")
    await rebuild_here(database, "runs")
    assert left_behind(database) == []


def tables_left(database: Database) -> list[str]:
    return [name for name in left_behind(database) if name.endswith("__replaced")]
