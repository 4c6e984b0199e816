"""Keys and memberships as PostgreSQL has them now: no answer is kept for the next request.

Look-ups are coalesced, one indexed query each round. Expiry is judged by the database's clock, in
the query that reads the key, so that no two processes disagree about it.
"""

import hmac
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from runs_domain.credentials_port import Credential
from runs_domain.ids import AccountId, KeyId, RunId
from runs_domain.keys import ServerSecrets, candidate_macs, well_formed
from runs_domain.storage.coalesce import Coalescer
from runs_domain.storage.connection import ReconnectingConnection

_KEYS: Final = """
SELECT k.mac, k.key_id, k.account_id, a.kind, k.run_id, k.scopes, k.ephemeral,
       k.revoked_at IS NOT NULL, coalesce(k.expires_at <= now(), false)
FROM api_keys k JOIN accounts a USING (account_id)
WHERE k.mac = ANY(%s)
"""
_MEMBERS: Final = """
SELECT m.org_id, m.member_id
FROM org_members m
JOIN unnest(%s::uuid[], %s::uuid[]) AS asked(org_id, member_id) USING (org_id, member_id)
WHERE m.valid_from <= now() AND (m.valid_until IS NULL OR m.valid_until > now())
"""
_RENEW: Final = """
UPDATE api_keys SET expires_at = now() + make_interval(secs => %s)
WHERE key_id = %s AND run_id = %s AND ephemeral AND revoked_at IS NULL
RETURNING key_id
"""

_logger = logging.getLogger(__name__)

Macs = tuple[bytes, ...]
"""The MACs that one presented key may be stored under."""
Pair = tuple[AccountId, AccountId]


class _Row(NamedTuple):
    mac: bytes
    key_id: UUID
    account_id: UUID
    kind: Any
    run_id: UUID | None
    scopes: list[str]
    ephemeral: bool
    revoked: bool
    expired: bool


class Credentials:
    """`CredentialStore` and `KeyLeases` on one connection of the process."""

    def __init__(
        self, connection: ReconnectingConnection, secrets: ServerSecrets, prefix: str
    ) -> None:
        self._connection = connection
        self._secrets = secrets
        self._prefix = prefix
        self._keys: Coalescer[Macs, _Row] = Coalescer(self._fetch_keys)
        self._members: Coalescer[Pair, bool] = Coalescer(self._fetch_members)

    async def look_up(self, raw: str) -> Credential | None:
        if not well_formed(raw, self._prefix):
            return None
        macs = candidate_macs(self._secrets, raw)
        row = await self._keys.get(macs)
        if row is None or not any(hmac.compare_digest(row.mac, mac) for mac in macs):
            return None
        if row.revoked or row.expired:
            # Whose key it was must be found again by whoever looks into a 401 (incident I-34).
            _logger.info(
                "refused a %s key: key %s, account %s, run %s",
                "revoked" if row.revoked else "expired",
                row.key_id,
                row.account_id,
                row.run_id,
            )
            return None
        return Credential(
            key_id=KeyId(row.key_id),
            account_id=AccountId(row.account_id),
            account_kind=row.kind,
            scopes=tuple(row.scopes),
            run_id=None if row.run_id is None else RunId(row.run_id),
            ephemeral=row.ephemeral,
        )

    async def is_member(self, org_id: AccountId, member_id: AccountId) -> bool:
        return await self._members.get((org_id, member_id)) is not None

    async def renew(self, run_id: RunId, key_id: KeyId, *, ttl_seconds: int) -> bool:
        return bool(await self._connection.fetch(_RENEW, (ttl_seconds, key_id, run_id)))

    async def _fetch_keys(self, asked: Sequence[Macs]) -> Mapping[Macs, _Row]:
        rows = await self._connection.fetch(_KEYS, ([mac for macs in asked for mac in macs],))
        by_mac = {row.mac: row for row in map(_Row._make, rows)}
        return {macs: by_mac[mac] for macs in asked for mac in macs if mac in by_mac}

    async def _fetch_members(self, asked: Sequence[Pair]) -> Mapping[Pair, bool]:
        orgs, members = zip(*asked, strict=True)
        rows = await self._connection.fetch(_MEMBERS, (list(orgs), list(members)))
        return {(AccountId(org), AccountId(member)): True for org, member in rows}
