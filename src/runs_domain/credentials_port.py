"""Who presents a key, and for whom they may act: what the API asks on every request."""

from typing import Literal, Protocol, TypeAlias

from runs_domain.events import Struct
from runs_domain.ids import AccountId, KeyId, RunId

AccountKind: TypeAlias = Literal["person", "org"]


class Credential(Struct, frozen=True):
    """A key that was good when it was looked up; never kept for the next request."""

    key_id: KeyId
    account_id: AccountId
    account_kind: AccountKind
    scopes: tuple[str, ...]
    run_id: RunId | None = None
    """Set for a run's own key, which is good for that run's routes only."""
    ephemeral: bool = False


class CredentialStore(Protocol):
    """Every method raises StoreUnavailable on doubt: doubt is never "no"."""

    async def look_up(self, raw: str) -> Credential | None:
        """None = malformed, unknown, expired or revoked; the caller cannot tell which."""
        ...

    async def is_member(self, org_id: AccountId, member_id: AccountId) -> bool:
        """Whether the organisation may act for the member now."""
        ...
