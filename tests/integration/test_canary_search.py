"""The search that proofs of erasure rest on finds what is planted, in every form and place."""

import base64
import gzip
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from redis import Redis

from tests.support.canaries import Canaries, forms_of
from tests.support.servers import Database

WORD = "kanarié 7f3a91d2"
FORMS = forms_of(WORD)


@pytest.fixture
def canaries() -> Canaries:
    return Canaries({"the word": WORD})


@pytest.mark.parametrize("around", [b"", b"x", b"xy", b"xyz"])
def test_every_form_is_found_whatever_stands_around_it(canaries: Canaries, around: bytes) -> None:
    text = around + WORD.encode() + around
    for coded in (
        text,
        text.hex().encode(),
        base64.b64encode(text),
        base64.urlsafe_b64encode(text),
        quote(text).encode(),
    ):
        assert list(canaries.found_in(b"before " + coded + b" after", "here"))
    assert not list(canaries.found_in(b"before " + text[:-4].hex().encode(), "here"))


@pytest.mark.parametrize("form", FORMS)
def test_a_planted_word_is_found_in_files_packed_ones_too(
    canaries: Canaries, form: str, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"\0" * 5000 + FORMS[form])
    (tmp_path / "packed.gz").write_bytes(gzip.compress(FORMS[form]))
    found = "\n".join(canaries.found_in_files(tmp_path))
    assert "deep/file" in found
    assert "packed.gz unpacked" in found
    assert "deep" not in "\n".join(canaries.found_in_files(tmp_path, without=("deep",)))


def test_a_planted_word_is_found_in_every_table_and_type_of_column(
    canaries: Canaries, database: Database
) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA other")
        owner.execute("CREATE TABLE other.leaks (a text, b bytea, c jsonb)")
        assert list(canaries.found_in_tables(database.admin_url)) == []
        for column, value in (
            ("a", WORD),
            ("b", WORD.encode()),
            ("b", FORMS["base64 1"]),
            ("c", f'{{"deep": ["{WORD}"]}}'),
        ):
            insert = f"INSERT INTO other.leaks ({column}) VALUES (%s)"  # noqa: S608 - no values
            owner.execute(insert.encode(), [value])
            assert list(canaries.found_in_tables(database.admin_url)), column
            owner.execute("DELETE FROM other.leaks")


def test_a_planted_word_is_found_in_every_type_of_redis_key(
    canaries: Canaries, redis_url: str
) -> None:
    with Redis.from_url(redis_url, socket_timeout=5.0) as client:
        for plant in (
            lambda: client.set("k", WORD),
            lambda: client.set(WORD, "v"),
            lambda: client.hset("k", WORD, "v"),
            lambda: client.hset("k", "f", WORD),
            lambda: client.rpush("k", "a", WORD),
            lambda: client.sadd("k", WORD),
            lambda: client.zadd("k", {WORD: 1.0}),
            lambda: client.xadd("k", {"f": WORD}),
        ):
            assert list(canaries.found_in_redis(redis_url)) == []
            plant()
            assert list(canaries.found_in_redis(redis_url))
            client.flushall()
