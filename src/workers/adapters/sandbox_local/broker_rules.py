"""What may pass the broker: paths below /api/, and headers that say nothing of who asks."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

Headers = Iterable[tuple[bytes, bytes]]

_PREFIX: Final = b"/api/"
_CREDENTIALS: Final = frozenset(
    {b"authorization", b"proxy-authorization", b"x-api-key", b"cookie", b"set-cookie"}
)
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"host",
        b"content-length",
    }
)
_FORWARDED: Final = (b"forwarded", b"x-forwarded-", b"x-real-ip")


def is_allowed(target: bytes) -> bool:
    path = unquote_to_bytes(target.partition(b"?")[0])
    strange = b"\\" in path or any(byte < 0x20 for byte in path)  # noqa: PLR2004 - controls
    dotted = {b".", b".."} & set(path.split(b"/"))
    return target.startswith(_PREFIX) and path.startswith(_PREFIX) and not (strange or dotted)


def passed_on(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Without credentials, and without what belongs to one connection or names a client."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {
        word.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for word in value.split(b",")
    }
    dropped = _CREDENTIALS | _HOP_BY_HOP | named
    return [
        (name, value)
        for name, value in pairs
        if name not in dropped and not name.startswith(_FORWARDED)
    ]
