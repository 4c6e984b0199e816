"""Whether a URL can be used, judged without quoting it: it may hold a password.

Stricter than the libraries that take them. What those would refuse only when they connect, with
the URL in the error's text, must not get that far. Special characters of a password are written
as `%2F`, `%40` and so on.
"""

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

PORT_MAX: Final = 65535

_CLEAN: Final = re.compile(r"(?:[^\x00-\x20\x7f%]|%(?!00)[0-9A-Fa-f]{2})+")
"""No blank or control character, and `%` only before two hexadecimal digits."""
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:@\[\]]*)(?::([0-9]{1,5}))?")
_POSTGRES: Final = re.compile(
    r"postgres(?:ql)?://(?:[^@/?#]*@)?(?P<hosts>[^@/?#]*)(?:/[^/?#@]*)?(?:\?[^?#@]*)?"
)


def is_postgres(url: str) -> bool:
    """`postgresql://user:password@host:port/database?name=value`; several hosts, by commas."""
    found = _POSTGRES.fullmatch(url)
    if found is None or _CLEAN.fullmatch(url) is None:
        return False
    hosts = [_HOST.fullmatch(host) for host in found["hosts"].split(",")]
    return all(host is not None and int(host[1] or 0) <= PORT_MAX for host in hosts)


def is_redis(url: str) -> bool:
    """`redis://user:password@host:port/0`, `rediss://…` for TLS, `unix:///path?db=0`."""
    parts = _split(url)
    if parts is None or parts.fragment or re.fullmatch("(?:db=[0-9]+)?", parts.query) is None:
        return False
    if parts.scheme == "unix":
        return not parts.hostname and len(parts.path) > 1
    is_database = re.fullmatch("/?[0-9]*", parts.path) is not None
    return parts.scheme in {"redis", "rediss"} and is_database


def is_http(url: str) -> bool:
    """`http://host` or `https://host`, with a port and a path at most."""
    parts = _split(url)
    return (
        parts is not None
        and parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and not ("@" in parts.netloc or parts.query or parts.fragment)
    )


def _split(url: str) -> SplitResult | None:
    if _CLEAN.fullmatch(url) is None:
        return None
    try:
        parts = urlsplit(url)
        host = _HOST.fullmatch(parts.netloc.rpartition("@")[2])
        is_port = parts.port is None or parts.port <= PORT_MAX
    except ValueError:
        return None
    return parts if host is not None and is_port and parts.netloc.count("@") <= 1 else None
