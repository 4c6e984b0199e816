"""A disk that is full in the middle of a rebuild, for real."""

import pytest

from runs_domain.settings import Secret
from runs_domain.storage.postgres_log import open_log
from tests.support.log_streams import SECRETS, Run
from tests.support.rebuilds import (
    CLOCK,
    REBUILD,
    assert_right,
    left_behind,
    projected,
    rebuilt,
    run,
)
from tests.support.servers import as_owner, create_database
from tests.support.small_disk import servers_with_small_disk

pytestmark = pytest.mark.crash
DISK_MEGABYTES = 24
FILLER_MEGABYTES = 16
MESSAGES = 10
MESSAGE_MEGABYTES = 1


async def test_a_full_disk_ends_a_rebuild_with_one_sentence_and_room_lets_it_go_on() -> None:
    with servers_with_small_disk(DISK_MEGABYTES) as (servers, disk):
        database = create_database(servers)
        as_owner(database, f"CREATE TABLESPACE small LOCATION '{disk}'")
        as_owner(database, "ALTER TABLE messages SET TABLESPACE small")
        as_owner(database, "CREATE TABLE filler (bytes bytea STORAGE EXTERNAL) TABLESPACE small")
        as_owner(
            database,
            "INSERT INTO filler SELECT convert_to(repeat('x', 1048576), 'UTF8')"
            " FROM generate_series(1, %s)",
            FILLER_MEGABYTES,
        )
        async with open_log(Secret(database.url), SECRETS, CLOCK) as log:
            for _ in range(MESSAGES):
                await Run(log).finish("x" * MESSAGE_MEGABYTES * 1024 * 1024)

            code, out, err = run(database, REBUILD, "messages", "runs")

            *progress, sentence = err.splitlines()
            assert (code, out) == (1, ""), err
            assert all(line.startswith("rebuild_projections: ") for line in progress)
            assert sentence.startswith("rebuild_projections: PostgreSQL failed while loading ")
            assert "its disk is full" in sentence
            assert "nothing was swapped" in sentence
            assert "--discard" in sentence
            assert as_owner(database, "SELECT count(*) FROM messages") == [(0,)]
            assert as_owner(
                database, "SELECT position FROM checkpoints WHERE name = 'messages'"
            ) == [(0,)]
            assert "messages__rebuild" in left_behind(database)

            as_owner(database, "DROP TABLE filler")
            assert rebuilt(database, "messages", "runs")["resumed"] is True
            assert left_behind(database) == []
            await projected(database, log)
            await assert_right(database)
