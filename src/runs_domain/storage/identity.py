"""The one place where ids are made up and the clock is read."""

import asyncio
import hashlib
import os
import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from runs_domain.ids import AccountId, ChatId, KeyId, RunId, SessionId

_NANOSECONDS_A_MILLISECOND: Final = 1_000_000
_FRACTION_BITS: Final = 12
_RANDOM_BITS: Final = 62
_VARIANT: Final = 0b10


class SystemClock:
    """`ports.Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - the injected clock itself

    def monotonic_seconds(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # noqa: TID251 - the injected clock itself


def uuid7() -> UUID:
    """RFC 9562: milliseconds, then 12 bits of the rest of the time, then 62 random bits.

    In order of making, to a quarter of a microsecond, so that indexes grow at one end.
    """
    return uuid7_at(time.time_ns(), os.urandom(8))


def uuid7_at(nanoseconds: int, random_bytes: bytes) -> UUID:
    """The same for a moment since 1970 and 8 bytes of chance that the caller brings."""
    milliseconds, rest = divmod(nanoseconds, _NANOSECONDS_A_MILLISECOND)
    fraction = (rest << _FRACTION_BITS) // _NANOSECONDS_A_MILLISECOND
    return _uuid(version=7, high=milliseconds << _FRACTION_BITS | fraction, low=random_bytes)


def new_run_id() -> RunId:
    return RunId(uuid7())


def new_chat_id() -> ChatId:
    return ChatId(uuid7())


def new_session_id() -> SessionId:
    return SessionId(uuid7())


def new_account_id() -> AccountId:
    return AccountId(uuid7())


def new_key_id() -> KeyId:
    return KeyId(uuid7())


def run_id_of(account_id: AccountId, idempotency_key: str) -> RunId:
    """The same for the same request: the log's uniqueness is the dedupe (UUID version 8)."""
    digest = hashlib.sha256(account_id.bytes + idempotency_key.encode()).digest()
    return RunId(_uuid(version=8, high=int.from_bytes(digest[:8], "big") >> 4, low=digest[8:16]))


def _uuid(*, version: int, high: int, low: bytes) -> UUID:
    """`high` = the 60 bits before and after the version; of `low` 62 bits are used."""
    time_bits, fraction = high >> _FRACTION_BITS, high & ((1 << _FRACTION_BITS) - 1)
    lower = int.from_bytes(low, "big") & ((1 << _RANDOM_BITS) - 1)
    return UUID(
        int=(time_bits << 80)
        | (version << 76)
        | (fraction << 64)
        | (_VARIANT << _RANDOM_BITS)
        | lower
    )
