"""Looks for words that must not stand anywhere, in every form that they might stand in."""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus

import psycopg
from psycopg import sql
from redis import Redis

BYTEA: Final = rb"\\x"
PHASES: Final = 3
"""How base64 groups bytes: a text looks in three ways, by what stands before it."""


def forms_of(word: str) -> dict[str, bytes]:
    """Each form by its name; what stands around the word does not change any of them."""
    return {
        **forms_of_bytes(word.encode()),
        "UTF-16": word.encode("utf-16-le"),
        "JSON": json.dumps(word)[1:-1].encode(),
        "quoted": quote(word, safe="").encode(),
        "quoted in small letters": quote(word, safe="").lower().encode(),
        "quoted as a form": quote_plus(word).encode(),
    }


def forms_of_bytes(word: bytes) -> dict[str, bytes]:
    forms = {"raw": word, "hex": word.hex().encode(), "HEX": word.hex().upper().encode()}
    for phase in range(PHASES):
        # Characters that neighbours have a part in are left out at both ends.
        coded = base64.b64encode(b"\0" * phase + word)
        whole = coded[(phase * 8 + 5) // 6 : (phase + len(word)) * 8 // 6]
        forms[f"base64 {phase}"] = whole
        forms[f"base64url {phase}"] = whole.translate(bytes.maketrans(b"+/", b"-_"))
    return forms


class Canaries:
    def __init__(self, words: Mapping[str, str | bytes]) -> None:
        """`words` by what they were: a prompt, a name; bytes are looked for as they are, too."""
        self._wanted = [
            (what, form, data)
            for what, word in words.items()
            for form, data in (
                forms_of(word) if isinstance(word, str) else forms_of_bytes(word)
            ).items()
        ]

    def found_in(self, data: bytes, where: str) -> Iterator[str]:
        """A sentence for each word, as `the prompt (hex) in <where>`."""
        for what, form, wanted in self._wanted:
            if wanted in data:
                yield f"{what} ({form}) in {where}"

    def found_in_files(self, root: Path, *, without: tuple[str, ...] = ()) -> Iterator[str]:
        """Every regular file below `root`, but in folders named in `without`; packed ones too."""
        for path in sorted(root.rglob("*")):
            if not path.is_file() or path.is_symlink() or set(path.parts) & set(without):
                continue
            data = path.read_bytes()
            where = str(path.relative_to(root))
            yield from self.found_in(data, where)
            if data[:2] == b"\x1f\x8b":
                yield from self.found_in(zlib.decompress(data, wbits=31), f"{where} unpacked")

    def found_in_tables(self, admin_url: str) -> Iterator[str]:
        """Every row of every table, as text."""
        with psycopg.connect(admin_url) as owner:
            tables = owner.execute(
                "SELECT table_schema, table_name FROM information_schema.tables"
                " WHERE table_type = 'BASE TABLE'"
            ).fetchall()
            for schema, table in tables:
                statement = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(schema, table))
                with owner.cursor().copy(statement) as copy:
                    data = b"".join(bytes(block) for block in copy)
                yield from self.found_in(data, f"{schema}.{table}")
                yield from self.found_in(_with_bytea_opened(data), f"bytes in {schema}.{table}")

    def found_in_redis(self, url: str) -> Iterator[str]:
        """Every key, whatever its type, and what it holds."""
        with Redis.from_url(url, socket_timeout=5.0) as client:
            for key in client.scan_iter(count=1000):
                data = b"\n".join((key, *_flat(_value(client, key))))
                yield from self.found_in(data, f"Redis {key.decode()}")


def _with_bytea_opened(data: bytes) -> bytes:
    """COPY writes bytea as hex; what it holds may itself be base64 or JSON."""
    fields = data.replace(b"\n", b"\t").split(b"\t")
    return b"\n".join(bytes.fromhex(one[3:].decode()) for one in fields if one[:3] == BYTEA)


def _value(client: Any, key: bytes) -> Any:
    match client.type(key):
        case b"string":
            return client.get(key)
        case b"hash":
            return client.hgetall(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return client.smembers(key)
        case b"zset":
            return client.zrange(key, 0, -1, withscores=True)
        case b"stream":
            return client.xrange(key)
        case b"none":
            return b""
        case other:
            raise AssertionError(f"nobody looks into a {other!r}")


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _flat(pair)
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from _flat(one)
