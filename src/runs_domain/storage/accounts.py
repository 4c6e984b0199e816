"""Accounts, organisations and their long-lived keys: what an administrator sets up.

Needs the owner's connection; the processes' role may not touch accounts. A raw key is in the
answer of `mint_key` and nowhere else: the database gets its MAC.
"""

import os
from typing import Final

from runs_domain.credentials_port import AccountKind
from runs_domain.events import Struct
from runs_domain.ids import AccountId, KeyId
from runs_domain.keys import KEY_BYTES, ServerSecrets, display_prefix, mac_of, new_key
from runs_domain.scopes import READ, WRITE, Scope
from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import new_account_id, new_key_id

ACCOUNT_SCOPES: Final[tuple[Scope, ...]] = (READ, WRITE)

_CREATE_ACCOUNT: Final = """
INSERT INTO accounts (account_id, kind, name) VALUES (%s, %s, %s)
ON CONFLICT (account_id) DO UPDATE SET name = EXCLUDED.name
    WHERE NOT EXISTS (
        SELECT FROM account_data_keys AS key
        WHERE key.account_id = EXCLUDED.account_id AND key.destroyed_at IS NOT NULL)
RETURNING account_id
"""
_EXISTS: Final = """
SELECT FROM accounts WHERE account_id = %s AND (%s::text IS NULL OR kind = %s)
"""
_ADD_MEMBER: Final = """
INSERT INTO org_members (org_id, member_id)
SELECT org.account_id, member.account_id
FROM accounts org, accounts member
WHERE org.account_id = %(org)s AND org.kind = 'org' AND member.account_id = %(member)s
    AND NOT EXISTS (
        SELECT FROM org_members WHERE org_id = %(org)s AND member_id = %(member)s
        AND valid_from <= now() AND (valid_until IS NULL OR valid_until > now()))
RETURNING org_id
"""
_END_MEMBERSHIP: Final = """
UPDATE org_members SET valid_until = now()
WHERE org_id = %s AND member_id = %s AND (valid_until IS NULL OR valid_until > now())
RETURNING org_id
"""
_IS_ERASED: Final = """
SELECT FROM account_data_keys WHERE account_id = %s AND destroyed_at IS NOT NULL
"""
_STORE_KEY: Final = """
INSERT INTO api_keys (
    key_id, mac, display_prefix, account_id, ephemeral, scopes, secret_version, expires_at)
VALUES (%s, %s, %s, %s, false, %s, %s, now() + make_interval(secs => %s))
ON CONFLICT (key_id) DO UPDATE SET
    mac = EXCLUDED.mac, display_prefix = EXCLUDED.display_prefix,
    secret_version = EXCLUDED.secret_version, revoked_at = NULL
    WHERE api_keys.account_id = EXCLUDED.account_id AND NOT api_keys.ephemeral
RETURNING key_id
"""
_REVOKE_KEY: Final = """
UPDATE api_keys SET revoked_at = now()
WHERE key_id = %s AND account_id = %s AND NOT ephemeral AND revoked_at IS NULL
RETURNING key_id
"""


class MintedKey(Struct, frozen=True):
    key_id: KeyId
    secret: Secret
    """Given out once; nobody can ask for it again."""


class Accounts:
    """Every method raises StoreUnavailable and may safely be called again."""

    def __init__(
        self, owner: ReconnectingConnection, server_secrets: ServerSecrets, prefix: str
    ) -> None:
        self._owner = owner
        self._secrets = server_secrets
        self._prefix = prefix

    async def create(
        self, kind: AccountKind, name: str, *, account_id: AccountId | None = None
    ) -> AccountId:
        """A person's account or an organisation's. An id that is known gets the new name, but an
        erased account none.
        """
        account = account_id or new_account_id()
        await self._owner.fetch(_CREATE_ACCOUNT, (account, kind, name))
        return account

    async def exists(self, account_id: AccountId, kind: AccountKind | None = None) -> bool:
        """With `kind`: and is of that kind."""
        return bool(await self._owner.fetch(_EXISTS, (account_id, kind, kind)))

    async def is_erased(self, account_id: AccountId) -> bool:
        return bool(await self._owner.fetch(_IS_ERASED, (account_id,)))

    async def add_member(self, org_id: AccountId, member_id: AccountId) -> None:
        """From now on the organisation may act for the member, if both exist."""
        await self._owner.fetch(_ADD_MEMBER, {"org": org_id, "member": member_id})

    async def end_membership(self, org_id: AccountId, member_id: AccountId) -> bool:
        """False = there was none."""
        return bool(await self._owner.fetch(_END_MEMBERSHIP, (org_id, member_id)))

    async def mint_key(self, account_id: AccountId, *, ttl_seconds: int | None = None) -> MintedKey:
        """A key of the account's own, for `ttl_seconds` or until it is revoked."""
        raw = new_key(self._prefix, os.urandom(KEY_BYTES))
        return await self.store_key(account_id, new_key_id(), raw, ttl_seconds=ttl_seconds)

    async def store_key(
        self, account_id: AccountId, key_id: KeyId, raw: str, *, ttl_seconds: int | None = None
    ) -> MintedKey:
        """Make `raw` the secret of the account's key `key_id`, whatever it was before."""
        version = self._secrets.current
        await self._owner.fetch(
            _STORE_KEY,
            (
                key_id,
                mac_of(self._secrets, raw, version),
                display_prefix(raw, self._prefix),
                account_id,
                list(ACCOUNT_SCOPES),
                version,
                ttl_seconds,
            ),
        )
        return MintedKey(key_id=key_id, secret=Secret(raw))

    async def revoke_key(self, account_id: AccountId, key_id: KeyId) -> bool:
        """False = no such key of the account's, or it was revoked before."""
        return bool(await self._owner.fetch(_REVOKE_KEY, (key_id, account_id)))
