"""The accounts that a development stack comes with: the same after every restart.

Their ids are fixed and their keys derived from the stack's own secret, so that a client which
was set up yesterday still works, and no raw key lies anywhere but in dev.json.
"""

import hmac
from typing import Final
from uuid import UUID

from runs_domain.events import Struct
from runs_domain.ids import AccountId, KeyId
from runs_domain.keys import KEY_BYTES, ServerSecrets, new_key
from runs_domain.settings import Secret
from runs_domain.storage.accounts import Accounts

DEV_KEY: Final = b"runledger/dev-key/v1"

_PERSON: Final = AccountId(UUID("01900000-0000-7000-8000-00000000d001"))
_ORG: Final = AccountId(UUID("01900000-0000-7000-8000-00000000d002"))
_MEMBER: Final = AccountId(UUID("01900000-0000-7000-8000-00000000d003"))
_OTHER: Final = AccountId(UUID("01900000-0000-7000-8000-00000000d004"))


class DevAccounts(Struct, frozen=True):
    """The organisation may act for the member, not for the other two."""

    account_id: AccountId
    api_key: Secret
    org_account_id: AccountId
    org_api_key: Secret
    member_account_id: AccountId
    other_account_id: AccountId
    other_api_key: Secret

    def as_json(self) -> dict[str, str]:
        """For dev.json, keys in clear: the file is the owner's alone (0600)."""
        return {
            "accountId": str(self.account_id),
            "apiKey": self.api_key.reveal(),
            "orgAccountId": str(self.org_account_id),
            "orgApiKey": self.org_api_key.reveal(),
            "memberAccountId": str(self.member_account_id),
            "otherAccountId": str(self.other_account_id),
            "otherApiKey": self.other_api_key.reveal(),
        }


async def seed_dev_accounts(accounts: Accounts, secrets: ServerSecrets, prefix: str) -> DevAccounts:
    """Make them if they are not there. Raises StoreUnavailable."""

    async def with_key(account: AccountId) -> Secret:
        entropy = hmac.digest(secrets.subkey(DEV_KEY, secrets.current), account.bytes, "sha256")
        raw = new_key(prefix, entropy[:KEY_BYTES])
        # The account's first key bears the account's own id.
        minted = await accounts.store_key(account, KeyId(account), raw)
        return minted.secret

    await accounts.create("person", "Developer", account_id=_PERSON)
    await accounts.create("org", "Organisation", account_id=_ORG)
    await accounts.create("person", "Member", account_id=_MEMBER)
    await accounts.create("person", "Other", account_id=_OTHER)
    await accounts.add_member(_ORG, _MEMBER)
    return DevAccounts(
        account_id=_PERSON,
        api_key=await with_key(_PERSON),
        org_account_id=_ORG,
        org_api_key=await with_key(_ORG),
        member_account_id=_MEMBER,
        other_account_id=_OTHER,
        other_api_key=await with_key(_OTHER),
    )
