"""Keys, memberships and leases on a real PostgreSQL."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest

from runs_domain import commands as c
from runs_domain.errors import StoreUnavailable
from runs_domain.ids import AccountId, Attempt, KeyId, RunId
from runs_domain.keys import DerivedKeyIssuer, ServerSecrets, new_key
from runs_domain.ports import RunKey
from runs_domain.settings import Secret
from runs_domain.storage.accounts import Accounts
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.credentials import Credentials
from runs_domain.storage.dev_accounts import seed_dev_accounts
from runs_domain.storage.identity import SystemClock, new_key_id, new_run_id
from runs_domain.storage.postgres_log import open_log
from tests.support.log_streams import SECRETS as LOG_SECRETS
from tests.support.log_streams import Run
from tests.support.servers import Database, as_owner
from workers.stack.servers import Servers

PREFIX = "recoup_sk_"
SECRETS = ServerSecrets({1: Secret("s" * 32)}, current=1)


@pytest.fixture
async def accounts(database: Database) -> AsyncIterator[Accounts]:
    owner = ReconnectingConnection(Secret(database.admin_url), name="owner")
    yield Accounts(owner, SECRETS, PREFIX)
    await owner.close()


@pytest.fixture
async def credentials(database: Database) -> AsyncIterator[Credentials]:
    connection = ReconnectingConnection(Secret(database.url), name="credentials")
    yield Credentials(connection, SECRETS, PREFIX)
    await connection.close()


def store_run_key(
    database: Database, account: AccountId, *, ttl: float = 900
) -> tuple[RunId, RunKey]:
    """What the append of a `key_minted` does."""
    run_id = new_run_id()
    key = DerivedKeyIssuer(SECRETS, PREFIX).derive(
        new_key_id(), run_id, secret_version=1, ttl_seconds=900, scopes=("runs:read",)
    )
    as_owner(
        database,
        "INSERT INTO api_keys (key_id, mac, display_prefix, account_id, run_id, ephemeral, scopes,"
        " secret_version, expires_at)"
        " VALUES (%s, %s, %s, %s, %s, true, %s, 1, now() + make_interval(secs => %s))",
        key.row.key_id,
        key.row.mac,
        key.row.display_prefix,
        account,
        run_id,
        list(key.row.scopes),
        ttl,
    )
    return run_id, key


def lifetime(database: Database, key_id: KeyId) -> timedelta:
    with psycopg.connect(database.admin_url) as connection:
        row = connection.execute(
            "SELECT expires_at - now() FROM api_keys WHERE key_id = %s", [key_id]
        ).fetchone()
    assert row is not None
    found: timedelta = row[0]
    return found


async def test_a_good_key_says_whose_it_is(accounts: Accounts, credentials: Credentials) -> None:
    account = await accounts.create("org", "Some organisation")
    key = await accounts.mint_key(account)
    found = await credentials.look_up(key.secret.reveal())

    assert found is not None
    assert (found.key_id, found.account_id) == (key.key_id, account)
    assert (found.account_kind, found.run_id, found.ephemeral) == ("org", None, False)


async def test_a_run_key_says_which_run_it_is_for(
    accounts: Accounts, credentials: Credentials, database: Database
) -> None:
    account = await accounts.create("person", "Somebody")
    run_id, key = store_run_key(database, account)
    found = await credentials.look_up(key.secret.reveal())

    assert found is not None
    assert (found.run_id, found.account_id) == (run_id, account)
    assert (found.scopes, found.ephemeral) == (("runs:read",), True)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "recoup_sk_",
        "junk",
        "recoup_sk_" + "0" * 39,
        new_key(PREFIX, bytes(24)),
        "\x00",
        "é" * 9,
    ],
)
async def test_an_unknown_key_is_nobody(credentials: Credentials, raw: str) -> None:
    assert await credentials.look_up(raw) is None


async def test_a_key_under_another_server_secret_is_nobody(
    accounts: Accounts, database: Database
) -> None:
    key = await accounts.mint_key(await accounts.create("person", "Somebody"))
    connection = ReconnectingConnection(Secret(database.url), name="stranger")
    stranger = Credentials(connection, ServerSecrets({1: Secret("t" * 32)}, current=1), PREFIX)

    assert await stranger.look_up(key.secret.reveal()) is None
    await connection.close()


async def test_a_key_outlives_a_rotation_of_the_server_secret(
    accounts: Accounts, database: Database
) -> None:
    key = await accounts.mint_key(await accounts.create("person", "Somebody"))
    connection = ReconnectingConnection(Secret(database.url), name="rotated")
    both = ServerSecrets({1: Secret("s" * 32), 2: Secret("t" * 32)}, current=2)

    assert await Credentials(connection, both, PREFIX).look_up(key.secret.reveal()) is not None
    await connection.close()


async def test_invariant_5_a_revoked_key_is_refused_at_the_next_request(
    accounts: Accounts, credentials: Credentials, database: Database
) -> None:
    """Also in the midst of many look-ups of the same key: none that starts later is answered by
    one that was sent before.
    """
    account = await accounts.create("person", "Somebody")
    _, key = store_run_key(database, account)
    raw = key.secret.reveal()
    under_way = [asyncio.create_task(credentials.look_up(raw)) for _ in range(50)]
    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    under_way += [asyncio.create_task(credentials.look_up(raw)) for _ in range(50)]
    await asyncio.to_thread(
        as_owner,
        database,
        "UPDATE api_keys SET revoked_at = now() WHERE key_id = %s",
        key.row.key_id,
    )

    assert await credentials.look_up(raw) is None
    assert all(await asyncio.gather(*under_way[:50]))


async def test_invariant_5_a_runs_key_is_good_from_its_minting_to_its_end(
    accounts: Accounts, database: Database
) -> None:
    account = await accounts.create("person", "Somebody")
    connection = ReconnectingConnection(Secret(database.url), name="credentials")
    credentials = Credentials(connection, LOG_SECRETS, PREFIX)
    async with open_log(Secret(database.url), LOG_SECRETS, SystemClock()) as log:
        run = Run(log, account_id=account)
        key = DerivedKeyIssuer(LOG_SECRETS, PREFIX).derive(
            run.key_id, run.run_id, secret_version=1, ttl_seconds=900, scopes=()
        )
        raw = key.secret.reveal()
        assert await credentials.look_up(raw) is None
        await run.start()
        found = await credentials.look_up(raw)
        assert found is not None
        assert (found.run_id, found.account_id) == (run.run_id, account)
        await run.do(c.FailRun(attempt=Attempt(1), code="internal", sentence="It broke."))
        assert await credentials.look_up(raw) is None
        assert not await credentials.renew(run.run_id, run.key_id, ttl_seconds=60)
    await connection.close()


async def test_revoking_an_account_key_takes_its_own_account(
    accounts: Accounts, credentials: Credentials
) -> None:
    account, other = [await accounts.create("person", name) for name in ("One", "Two")]
    key = await accounts.mint_key(account)

    assert not await accounts.revoke_key(other, key.key_id)
    assert await credentials.look_up(key.secret.reveal()) is not None
    assert await accounts.revoke_key(account, key.key_id)
    assert await credentials.look_up(key.secret.reveal()) is None


async def test_expiry_is_judged_by_the_databases_clock(
    accounts: Accounts, credentials: Credentials, database: Database
) -> None:
    """The instant of expiry itself is too late (L-06: no expiry is ever read as never)."""
    account = await accounts.create("person", "Somebody")
    _, good = store_run_key(database, account, ttl=3600)
    _, dead = store_run_key(database, account, ttl=-0.001)

    assert await credentials.look_up(good.secret.reveal()) is not None
    assert await credentials.look_up(dead.secret.reveal()) is None


async def test_I_34_a_refused_run_key_is_named_in_the_log_but_not_shown(
    accounts: Accounts,
    credentials: Credentials,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    account = await accounts.create("person", "Somebody")
    run_id, key = store_run_key(database, account, ttl=-1)
    with caplog.at_level(logging.INFO):
        await credentials.look_up(key.secret.reveal())

    assert f"account {account}, run {run_id}" in caplog.text
    assert "expired" in caplog.text
    assert key.secret.reveal() not in caplog.text


async def test_a_lease_is_renewed_for_its_own_run_and_only_while_unrevoked(
    accounts: Accounts, credentials: Credentials, database: Database
) -> None:
    account = await accounts.create("person", "Somebody")
    run_id, key = store_run_key(database, account, ttl=60)
    key_id = key.row.key_id

    assert not await credentials.renew(new_run_id(), key_id, ttl_seconds=3600)
    assert lifetime(database, key_id) < timedelta(minutes=2)
    assert await credentials.renew(run_id, key_id, ttl_seconds=3600)
    assert lifetime(database, key_id) > timedelta(minutes=58)
    as_owner(database, "UPDATE api_keys SET revoked_at = now() WHERE key_id = %s", key_id)
    assert not await credentials.renew(run_id, key_id, ttl_seconds=3600)


async def test_a_run_key_that_expired_while_its_worker_was_away_lives_again_by_renewal(
    accounts: Accounts, credentials: Credentials, database: Database
) -> None:
    account = await accounts.create("person", "Somebody")
    run_id, key = store_run_key(database, account, ttl=-60)

    assert await credentials.renew(run_id, key.row.key_id, ttl_seconds=60)
    assert await credentials.look_up(key.secret.reveal()) is not None


async def test_an_account_key_is_never_renewed_as_if_it_were_a_runs(
    accounts: Accounts, credentials: Credentials
) -> None:
    key = await accounts.mint_key(await accounts.create("person", "Somebody"))

    assert not await credentials.renew(new_run_id(), key.key_id, ttl_seconds=60)


async def test_an_organisation_acts_for_its_members_while_they_are_members(
    accounts: Accounts, credentials: Credentials
) -> None:
    org = await accounts.create("org", "Some organisation")
    member, stranger = [await accounts.create("person", name) for name in ("One", "Two")]
    await accounts.add_member(org, member)
    await accounts.add_member(org, member)

    assert await credentials.is_member(org, member)
    assert not await credentials.is_member(org, stranger)
    assert not await credentials.is_member(member, org)
    assert await accounts.end_membership(org, member)
    assert not await credentials.is_member(org, member)


async def test_a_person_has_no_members(accounts: Accounts, credentials: Credentials) -> None:
    one, two = [await accounts.create("person", name) for name in ("One", "Two")]
    await accounts.add_member(one, two)

    assert not await credentials.is_member(one, two)


async def test_the_development_accounts_are_the_same_after_a_restart(
    accounts: Accounts, credentials: Credentials
) -> None:
    first = await seed_dev_accounts(accounts, SECRETS, PREFIX)
    again = await seed_dev_accounts(accounts, SECRETS, PREFIX)

    assert first.as_json() == again.as_json()
    assert len(set(first.as_json().values())) == 7
    for key, account in (
        (first.api_key, first.account_id),
        (first.org_api_key, first.org_account_id),
        (first.other_api_key, first.other_account_id),
    ):
        found = await credentials.look_up(key.reveal())
        assert found is not None
        assert found.account_id == account
    assert await credentials.is_member(first.org_account_id, first.member_account_id)
    assert not await credentials.is_member(first.org_account_id, first.other_account_id)


async def test_a_store_in_doubt_is_unavailable_and_never_no(
    own_servers: Servers, own_database: Database
) -> None:
    connection = ReconnectingConnection(Secret(own_database.url), name="credentials")
    credentials = Credentials(connection, SECRETS, PREFIX)
    raw = new_key(PREFIX, bytes(24))
    assert await credentials.look_up(raw) is None

    await asyncio.to_thread(own_servers.postgres.stop, at_once=True)
    with pytest.raises(StoreUnavailable):
        await credentials.look_up(raw)
    await asyncio.to_thread(own_servers.postgres.start)
    assert await credentials.look_up(raw) is None
    await connection.close()
