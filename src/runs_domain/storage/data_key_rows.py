"""`sealing.DataKeyStore` over the table `account_data_keys`."""

from collections.abc import Mapping, Sequence
from typing import Final

from psycopg.rows import TupleRow

from runs_domain.ids import AccountId
from runs_domain.storage.connection import Fetches
from runs_domain.storage.sealing import WrappedKey

LOAD_KEYS: Final = """
    SELECT account_id, wrapped, secret_version FROM account_data_keys
    WHERE account_id = ANY(%b::uuid[])"""
_ADD: Final = """
    INSERT INTO account_data_keys (account_id, wrapped, secret_version)
    SELECT * FROM unnest(%b::uuid[], %b::bytea[], %b::integer[])
    ON CONFLICT (account_id) DO NOTHING RETURNING account_id"""


def wrapped_keys(rows: Sequence[TupleRow]) -> Mapping[AccountId, WrappedKey]:
    """Of rows of LOAD_KEYS."""
    return {
        account: WrappedKey(wrapped=wrapped, secret_version=version)
        for account, wrapped, version in rows
    }


class PostgresDataKeys:
    def __init__(self, connection: Fetches) -> None:
        self._connection = connection

    async def load(self, accounts: Sequence[AccountId]) -> Mapping[AccountId, WrappedKey]:
        return wrapped_keys(await self._connection.fetch(LOAD_KEYS, (list(accounts),)))

    async def add(self, keys: Mapping[AccountId, WrappedKey]) -> None:
        wrapped = [key.wrapped for key in keys.values()]
        versions = [key.secret_version for key in keys.values()]
        await self._connection.fetch(_ADD, (list(keys), wrapped, versions))
