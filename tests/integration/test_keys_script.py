"""`scripts/keys.py`: from an empty database to a key that the API takes."""

from typing import Any
from uuid import uuid5

import pytest

from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.credentials import Credentials
from tests.support.builders import ACCOUNT
from tests.support.log_streams import SECRETS
from tests.support.operators import environment_of, run_script


@pytest.fixture
def keys(database: Any, redis_url: str) -> Any:
    environment = environment_of(database, redis_url, owner=True)

    def run(*arguments: str, code: int = 0, **changes: str) -> str:
        done = run_script("keys.py", *arguments, env=environment | changes)
        assert done.returncode == code, done.stderr
        return done.stdout.strip() or done.stderr.strip()

    return run


async def test_an_account_gets_a_key_that_is_good_until_it_is_revoked(
    keys: Any, database: Any
) -> None:
    account = keys("account", "Ada")
    key_id, raw = keys("mint", account, "--days", "1").split()
    connection = ReconnectingConnection(Secret(database.url), name="test")
    credentials = Credentials(connection, SECRETS, "recoup_sk_")
    try:
        credential = await credentials.look_up(raw)
        assert credential is not None
        assert str(credential.account_id) == account

        keys("revoke", account, key_id)
        assert await credentials.look_up(raw) is None
    finally:
        await connection.close()


def test_an_organisation_acts_for_a_member_until_that_ends(keys: Any) -> None:
    org, member = keys("account", "Label", "--org"), keys("account", "Ada")
    assert keys("member", org, member) == ""
    assert keys("member", org, member, "--end") == ""
    assert "no such membership" in keys("member", org, member, "--end", code=1)
    assert "no such organisation" in keys("member", member, org, code=1)


def test_what_does_not_exist_is_said_so_and_changes_nothing(keys: Any) -> None:
    stranger = str(uuid5(ACCOUNT, "stranger"))
    assert "no such account" in keys("mint", stranger, code=1)
    assert "no such key" in keys("revoke", stranger, stranger, code=1)
    account = keys("account", "Ada")
    assert "1 to 3650" in keys("mint", account, "--days", "0", code=1)


def test_a_database_that_is_away_is_told_in_one_sentence_without_its_address(keys: Any) -> None:
    away = "postgresql://owner:canary-password@127.0.0.1:1/none"
    assert keys("account", "Ada", code=1, RUNLEDGER_ADMIN_DATABASE_URL=away) == (
        "keys: PostgreSQL cannot be reached (connection refused):"
        " look at RUNLEDGER_ADMIN_DATABASE_URL"
    )
