"""Is the server secret the one that this database was sealed with?

Whoever works with another one reads every sealed run as corrupt, and would bury healthy ones: so
no process starts with it.
"""

from typing import Final

from runs_domain.errors import StoreUnavailable
from runs_domain.keys import ServerSecrets, secrets_of
from runs_domain.settings import BadSettings, Settings
from runs_domain.storage.connection import Fetches, ReconnectingConnection
from runs_domain.storage.sealing import WrappedKey, unwraps

WRONG_SECRET: Final = "RUNLEDGER_SECRET is not the one this database was sealed with"  # noqa: S105
ROWS_PER_END_MAX: Final = 4
"""Tried of the first and of the last accounts' data keys."""

_SAMPLE: Final = """
    (SELECT account_id, wrapped FROM account_data_keys
     WHERE wrapped IS NOT NULL AND secret_version = %(version)b
     ORDER BY account_id LIMIT %(rows)b)
    UNION
    (SELECT account_id, wrapped FROM account_data_keys
     WHERE wrapped IS NOT NULL AND secret_version = %(version)b
     ORDER BY account_id DESC LIMIT %(rows)b)"""


async def refuse_wrong_secret(settings: Settings) -> None:
    """At start. Raises BadSettings.

    A PostgreSQL that is away, empty or not migrated yet keeps nobody from starting; it is asked
    for a few seconds at most (`QUERY_SECONDS_MAX`, to connect and to answer).
    """
    connection = ReconnectingConnection(settings.database_url, name="runledger secret check")
    try:
        if await is_right_secret(connection, secrets_of(settings)) is False:
            raise BadSettings(WRONG_SECRET)
    except StoreUnavailable:
        return
    finally:
        await connection.close()


async def is_right_secret(connection: Fetches, secrets: ServerSecrets) -> bool | None:
    """Whether every version kept opens most of the data keys tried: one damaged key says nothing
    about the secret. None = no key is sealed under any of them. Raises StoreUnavailable.
    """
    known: bool | None = None
    for version in secrets.versions:
        rows = await connection.fetch(_SAMPLE, {"version": version, "rows": ROWS_PER_END_MAX})
        opened = [
            unwraps(secrets, account, WrappedKey(wrapped=wrapped, secret_version=version))
            for account, wrapped in rows
        ]
        if opened.count(False) > opened.count(True):
            return False
        known = known or bool(opened) or None
    return known
