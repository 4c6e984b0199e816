"""From started servers to a database that API and workers can use, with accounts to try it."""

import asyncio
from typing import Final

import psycopg

from runs_domain.keys import ServerSecrets
from runs_domain.settings import Secret
from runs_domain.storage.accounts import Accounts
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.dev_accounts import DevAccounts, seed_dev_accounts
from runs_domain.storage.migrate import migrate
from workers.stack.roles import create_service_login
from workers.stack.servers import Servers

DATABASE: Final = "runledger"
SEED_SECONDS: Final = 10.0


def prepare_database(servers: Servers) -> None:
    """Make the database if it is new, bring its tables up to date, let the service log in.

    Raises MigrationFailed.
    """
    with psycopg.connect(servers.database_url("postgres", admin=True), autocommit=True) as owner:
        known = owner.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
        if known.fetchone() is None:
            owner.execute(f"CREATE DATABASE {DATABASE}".encode())
    migrate(servers.database_url(DATABASE, admin=True))
    create_service_login(servers)


def seed_accounts(servers: Servers, *, secret: str, key_prefix: str) -> DevAccounts:
    """The accounts of dev.json, the same after every start. Raises StoreUnavailable."""

    async def seed() -> DevAccounts:
        owner = ReconnectingConnection(
            Secret(servers.database_url(DATABASE, admin=True)),
            name="runledger dev",
            seconds_max=SEED_SECONDS,
        )
        secrets = ServerSecrets({1: Secret(secret)}, current=1)
        try:
            accounts = Accounts(owner, secrets, key_prefix)
            return await seed_dev_accounts(accounts, secrets, key_prefix)
        finally:
            await owner.close()

    return asyncio.run(seed())
