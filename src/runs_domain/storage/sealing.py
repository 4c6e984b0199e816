"""Content is stored encrypted under a data key of its account: destroying that key erases it all,
and no hash chain breaks.

A data key is 32 random bytes, stored wrapped under a sub-key of the server secret. It is kept in
memory for DATA_KEY_SECONDS_MAX at most, so that an erasure bites in every process.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runs_domain.errors import HistoryCorrupt
from runs_domain.events import Struct
from runs_domain.ids import AccountId, RunId, Version
from runs_domain.keys import ServerSecrets
from runs_domain.ports import Clock
from runs_domain.storage.coalesce import Coalescer

DATA_KEY_WRAP: Final = b"runledger/data-key-wrap/v1"
DATA_KEY_BITS: Final = 256
NONCE_BYTES: Final = 12
DATA_KEY_SECONDS_MAX: Final = 30.0
DATA_KEYS_CACHED_MAX: Final = 4096


class WrappedKey(Struct, frozen=True):
    """A row of `account_data_keys`; `wrapped` is None once the key was destroyed."""

    wrapped: bytes | None
    secret_version: int


class DataKeyStore(Protocol):
    """Both raise StoreUnavailable."""

    async def load(self, accounts: Sequence[AccountId]) -> Mapping[AccountId, WrappedKey]:
        """Those of `accounts` that ever had a key."""
        ...

    async def add(self, keys: Mapping[AccountId, WrappedKey]) -> None:
        """But for accounts that have one: those keep it."""
        ...


class DataKey:
    __slots__ = ("_cipher",)

    def __init__(self, raw: bytes) -> None:
        self._cipher = AESGCM(raw)

    def seal(self, plain: bytes, run_id: RunId, version: Version, *, row: str = "") -> bytes:
        """Nonce, then ciphertext; bound to its place in its stream, or to a view's `row`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, _place(run_id, version, row))

    def unseal(self, sealed: bytes, run_id: RunId, version: Version, *, row: str = "") -> bytes:
        """Raises HistoryCorrupt if `sealed` was changed or comes from another place."""
        try:
            return self._cipher.decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _place(run_id, version, row)
            )
        except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            raise HistoryCorrupt(f"event {version} of run {run_id} cannot be unsealed") from None


def _place(run_id: RunId, version: Version, row: str) -> bytes:
    return f"{run_id}:{version}:{row}".encode() if row else f"{run_id}:{version}".encode()


class _Kept(Struct, frozen=True):
    key: DataKey | None
    until: float


class DataKeys:
    """The accounts' data keys. None stands for a destroyed one."""

    def __init__(self, store: DataKeyStore, secrets: ServerSecrets, clock: Clock) -> None:
        self._store = store
        self._secrets = secrets
        self._clock = clock
        self._kept: OrderedDict[AccountId, _Kept] = OrderedDict()
        self._rows: Coalescer[AccountId, WrappedKey] = Coalescer(store.load)
        self._made: Coalescer[AccountId, WrappedKey] = Coalescer(self._make)

    async def for_sealing(self, account: AccountId) -> DataKey | None:
        """The account's key, made if it never had one."""
        kept = self._fresh(account)
        if kept is not None:
            return kept.key
        row = await self._rows.get(account) or await self._made.get(account)
        if row is None:
            raise HistoryCorrupt(f"the data key of account {account} vanished")
        return self._keep(account, row)

    async def for_reading(
        self, accounts: Iterable[AccountId]
    ) -> Mapping[AccountId, DataKey | None]:
        """One a given account; None if it was destroyed or never made."""
        wanted = set(accounts)
        kept = {account: found for account in wanted if (found := self._fresh(account))}
        missing = tuple(wanted - kept.keys())
        rows = await asyncio.gather(*map(self._rows.get, missing))
        keys = {account: found.key for account, found in kept.items()}
        for account, row in zip(missing, rows, strict=True):
            keys[account] = None if row is None else self._keep(account, row)
        return keys

    def forget(self, account: AccountId) -> None:
        self._kept.pop(account, None)

    async def _make(self, accounts: Sequence[AccountId]) -> Mapping[AccountId, WrappedKey]:
        await self._store.add({account: self._wrap(account) for account in accounts})
        # Somebody else may have been first: what is stored counts.
        return await self._store.load(accounts)

    def _fresh(self, account: AccountId) -> _Kept | None:
        kept = self._kept.get(account)
        if kept is None or kept.until < self._clock.monotonic_seconds():
            return None
        return kept

    def _keep(self, account: AccountId, row: WrappedKey) -> DataKey | None:
        wrapped = row.wrapped
        key = None if wrapped is None else _unwrapped(self._secrets, account, wrapped, row)
        self._kept[account] = _Kept(
            key=key, until=self._clock.monotonic_seconds() + DATA_KEY_SECONDS_MAX
        )
        self._kept.move_to_end(account)
        if len(self._kept) > DATA_KEYS_CACHED_MAX:
            self._kept.popitem(last=False)
        return key

    def _wrap(self, account: AccountId) -> WrappedKey:
        version = self._secrets.current
        nonce = os.urandom(NONCE_BYTES)
        wrapping = AESGCM(self._secrets.subkey(DATA_KEY_WRAP, version))
        raw = AESGCM.generate_key(DATA_KEY_BITS)
        return WrappedKey(
            wrapped=nonce + wrapping.encrypt(nonce, raw, account.bytes), secret_version=version
        )


def unwraps(secrets: ServerSecrets, account: AccountId, row: WrappedKey) -> bool:
    """Whether `secrets` open a key that was not destroyed. Raises UnknownSecretVersion."""
    try:
        _unwrapped(secrets, account, row.wrapped or b"", row)
    except HistoryCorrupt:
        return False
    return True


def opened_keys(
    secrets: ServerSecrets, rows: Mapping[AccountId, WrappedKey]
) -> Mapping[AccountId, DataKey | None]:
    """Each account's key, None if it was destroyed; nothing is kept. Raises HistoryCorrupt,
    UnknownSecretVersion.
    """
    return {
        account: None if row.wrapped is None else _unwrapped(secrets, account, row.wrapped, row)
        for account, row in rows.items()
    }


def _unwrapped(
    secrets: ServerSecrets, account: AccountId, wrapped: bytes, row: WrappedKey
) -> DataKey:
    wrapping = AESGCM(secrets.subkey(DATA_KEY_WRAP, row.secret_version))
    try:
        return DataKey(
            wrapping.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], account.bytes)
        )
    except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
        raise HistoryCorrupt(
            f"the data key of account {account} cannot be unwrapped:"
            f" is server secret {row.secret_version} the one that wrapped it?"
        ) from None
