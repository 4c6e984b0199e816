"""The fixtures that every other test leans on."""

import psycopg
import pytest
import redis

from tests.support.servers import Database
from tests.support.waiting import until


def test_the_service_role_reads_and_has_no_owner_rights(database: Database) -> None:
    with psycopg.connect(database.url) as connection:
        row = connection.execute(
            "SELECT rolsuper, pg_has_role('runledger_service', 'member')"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()

    assert row == (False, True)


@pytest.mark.parametrize("test", ["first", "second"])
def test_each_test_has_a_database_and_a_valkey_of_its_own(
    test: str, database: Database, redis_url: str
) -> None:
    """Either order: what one leaves behind, the other must not see."""
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("CREATE TABLE leftover (who text)")
        connection.execute("INSERT INTO leftover VALUES (%s)", [test])
    with redis.Redis.from_url(redis_url) as client:
        assert client.incr("leftover") == 1


async def test_until_returns_the_value_and_names_what_never_came() -> None:
    values = iter([0, None, 7])
    assert await until(lambda: next(values)) == 7

    def the_moon_is_cheese() -> bool:
        return False

    with pytest.raises(AssertionError, match=r"the_moon_is_cheese did not hold within 0\.02 s"):
        await until(the_moon_is_cheese, timeout_seconds=0.02)
