"""The form of an API key, its MAC, and the keys of runs, which are derived and never stored.

A key reads `<prefix><33 base62><6 base62>`: 192 bits, then the CRC-32 of all that comes before,
so that junk is refused without a look-up. Everything here hangs on the server secret, of which
several versions may be in use at once: keys made under an old one live on until they end.
"""

import hashlib
import hmac
import re
import zlib
from collections.abc import Mapping
from typing import Final

from typing_extensions import override

from runs_domain.errors import UnknownSecretVersion
from runs_domain.ids import KeyId, RunId
from runs_domain.ports import KeyRow, RunKey
from runs_domain.settings import Secret, Settings

BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY_BYTES: Final = 24
BODY_CHARS: Final = 33
CHECKSUM_CHARS: Final = 6
DISPLAY_CHARS: Final = 8
"""Of the body, shown beside a key so that its owner knows which one it is."""

KEY_MAC: Final = b"runledger/key-mac/v1"
RUN_KEY: Final = b"runledger/run-key/v1"
"""Purposes: each has its own sub-key, so that no use of the secret can stand in for another."""

_TAIL: Final = re.compile(f"[0-9A-Za-z]{{{BODY_CHARS + CHECKSUM_CHARS}}}")


class ServerSecrets:
    """The server secret's versions. New keys take `current`; old ones are looked up under all."""

    __slots__ = ("_secrets", "_subkeys", "current")

    def __init__(self, secrets: Mapping[int, Secret], *, current: int) -> None:
        if current not in secrets:
            raise UnknownSecretVersion(current)
        self._secrets = dict(secrets)
        self._subkeys: dict[tuple[int, bytes], bytes] = {}
        self.current = current

    @property
    def versions(self) -> tuple[int, ...]:
        """Newest first: the likeliest comes first."""
        return tuple(sorted(self._secrets, reverse=True))

    def subkey(self, purpose: bytes, version: int) -> bytes:
        """32 bytes for one purpose. Raises UnknownSecretVersion."""
        known = self._subkeys.get((version, purpose))
        if known is None:
            if version not in self._secrets:
                raise UnknownSecretVersion(version)
            known = hkdf_sha256(self._secrets[version].reveal().encode(), purpose)
            self._subkeys[(version, purpose)] = known
        return known

    @override
    def __repr__(self) -> str:
        return f"ServerSecrets(current={self.current}, versions={self.versions})"


def secrets_of(settings: Settings) -> ServerSecrets:
    return ServerSecrets(
        {settings.secret_version: settings.secret}, current=settings.secret_version
    )


def hkdf_sha256(secret: bytes, info: bytes, *, salt: bytes = b"") -> bytes:
    """RFC 5869 for one block of 32 bytes, which is all that a sub-key needs."""
    extracted = hmac.digest(salt or bytes(hashlib.sha256().digest_size), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


# ------------------------------------------------------------------------------ the form


def new_key(prefix: str, entropy: bytes) -> str:
    """A key made of KEY_BYTES random bytes, which the caller brings."""
    if len(entropy) != KEY_BYTES:
        raise ValueError(f"a key is made of {KEY_BYTES} bytes")
    return _with_checksum(prefix + base62(int.from_bytes(entropy, "big"), BODY_CHARS))


def well_formed(raw: str, prefix: str) -> bool:
    """False = certainly not a key of ours; no look-up is needed."""
    if not raw.startswith(prefix) or not _TAIL.fullmatch(raw, len(prefix)):
        return False
    return _with_checksum(raw[:-CHECKSUM_CHARS]) == raw


def display_prefix(raw: str, prefix: str) -> str:
    return raw[: len(prefix) + DISPLAY_CHARS]


def base62(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    if number:
        raise ValueError(f"the number does not fit {width} digits")
    return digits


def _with_checksum(text: str) -> str:
    return text + base62(zlib.crc32(text.encode()), CHECKSUM_CHARS)


# ------------------------------------------------------------------------------ MACs


def mac_of(secrets: ServerSecrets, raw: str, version: int) -> bytes:
    """What the database holds in place of the key: 32 bytes, useless without the secret."""
    return hmac.digest(secrets.subkey(KEY_MAC, version), raw.encode(), "sha256")


def candidate_macs(secrets: ServerSecrets, raw: str) -> tuple[bytes, ...]:
    """The MACs that a presented key may be stored under, one a secret version."""
    return tuple(mac_of(secrets, raw, version) for version in secrets.versions)


class DerivedKeyIssuer:
    """`ports.KeyIssuer`: any worker that takes a run over makes the same key again."""

    def __init__(self, secrets: ServerSecrets, prefix: str) -> None:
        self._secrets = secrets
        self._prefix = prefix

    def derive(
        self,
        key_id: KeyId,
        run_id: RunId,
        *,
        secret_version: int,
        ttl_seconds: int,
        scopes: tuple[str, ...],
    ) -> RunKey:
        """Raises UnknownSecretVersion once the version that minted the key is gone."""
        subkey = self._secrets.subkey(RUN_KEY, secret_version)
        entropy = hmac.digest(subkey, key_id.bytes + run_id.bytes, "sha256")[:KEY_BYTES]
        raw = new_key(self._prefix, entropy)
        row = KeyRow(
            key_id=key_id,
            mac=mac_of(self._secrets, raw, secret_version),
            display_prefix=display_prefix(raw, self._prefix),
            secret_version=secret_version,
            ttl_seconds=ttl_seconds,
            scopes=scopes,
        )
        return RunKey(secret=Secret(raw), row=row)
