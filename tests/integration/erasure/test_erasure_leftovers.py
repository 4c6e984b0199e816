"""What could be left after an erasure: rows, files, caches, exports, sandboxes."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from runs_domain import commands as c
from runs_domain.errors import StaleAttempt
from runs_domain.ids import Attempt
from runs_domain.settings import Secret
from runs_domain.storage import redis_names as names
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.erasure import LOCK_PARAMETERS, Erasure, TableBusy
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_pubsub import RedisPubSub
from tests.support.erasures import CANARY, Place, opened_log, project
from tests.support.log_streams import Run
from tests.support.operators import run_script
from workers.stack.servers import Servers

PIECE = 12
"""So many bytes of a secret are found by no chance."""


async def test_a_worker_asleep_at_the_end_writes_no_word_after_the_erasure(
    place: Place, redis: PipelinedRedis
) -> None:
    pubsub = RedisPubSub(redis)
    chunks = RedisChunks(redis, pubsub)
    run_id = place.runs[0].run_id
    fence = await chunks.raise_attempt(run_id, Attempt(1))
    place.erase()

    for late in (chunks.write, chunks.restart):
        with pytest.raises(StaleAttempt):
            await late(run_id, fence, 0, [CANARY.encode()])
    with pytest.raises(StaleAttempt):
        await chunks.raise_attempt(run_id, Attempt(9))
    assert await chunks.next_index(run_id) is None
    assert place.chunk_keys() == set()
    with Redis.from_url(place.redis_url, socket_timeout=5.0) as client:
        assert all(client.ttl(names.chunk_state(run.run_id)) > 0 for run in place.runs)
    await pubsub.close()


async def test_rows_that_a_rebuild_is_filling_a_table_with_go_too(place: Place) -> None:
    place.query("CREATE TABLE messages_next AS SELECT * FROM messages")
    assert place.erase()["cleared"]["messageRows"] == 8
    assert place.query("SELECT 1 FROM messages_next") == []


async def test_a_table_that_a_rebuild_writes_to_is_waited_for_and_named(place: Place) -> None:
    place.query("CREATE TABLE messages_next AS SELECT * FROM messages")
    with psycopg.connect(place.database.admin_url) as rebuild:
        rebuild.execute("INSERT INTO messages_next SELECT * FROM messages")
        receipt = place.erase(code=1)
        (left,) = receipt["left"]
        assert left.startswith("messages_next is being written to")
        rebuild.commit()
    assert place.erase()["complete"] is True
    assert place.query("SELECT 1 FROM messages_next") == []


@pytest.mark.parametrize("goes", [True, False])
async def test_a_rebuild_that_swaps_its_table_in_meanwhile_ends_no_erasure(
    place: Place, monkeypatch: pytest.MonkeyPatch, goes: bool
) -> None:
    """The tables have other names then than those that were looked up; the old one may stay."""
    place.query("CREATE TABLE messages__rebuild (LIKE messages INCLUDING ALL)")
    place.query("INSERT INTO messages__rebuild SELECT * FROM messages")
    barrier = Erasure._barrier
    tables = []

    async def swap_and_wait(self: Erasure, table: str) -> Any:
        tables.append(table)
        if len(tables) == 1:
            place.query("ALTER TABLE messages RENAME TO messages__replaced")
            place.query("ALTER TABLE messages__rebuild RENAME TO messages")
            if goes:
                place.query("DROP TABLE messages__replaced")
        return await barrier(self, table)

    monkeypatch.setattr(Erasure, "_barrier", swap_and_wait)
    owner = ReconnectingConnection(
        Secret(place.database.admin_url), name="test", parameters=LOCK_PARAMETERS
    )
    erasure = Erasure(owner, owner, place.account)
    await erasure.begin("operator:test")
    await erasure.clear_views()
    await owner.close()

    assert tables[:2] == ["messages", "messages__rebuild"]
    assert place.query("SELECT 1 FROM messages WHERE account_id = %s", place.account) == []
    if not goes:
        assert place.query("SELECT 1 FROM messages__replaced") == []


async def test_a_lock_that_comes_between_is_told_as_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index of the shadow is begun when nobody has written to it any more."""
    barrier = Erasure._barrier
    owner = ReconnectingConnection(
        Secret(place.database.admin_url), name="test", parameters=LOCK_PARAMETERS
    )
    with psycopg.connect(place.database.admin_url) as rebuild:

        async def wait_and_lock(self: Erasure, table: str) -> Any:
            waited = await barrier(self, table)
            rebuild.execute("LOCK TABLE messages IN SHARE MODE")
            return waited

        monkeypatch.setattr(Erasure, "_barrier", wait_and_lock)
        erasure = Erasure(owner, owner, place.account)
        await erasure.begin("operator:test")
        with pytest.raises(TableBusy, match="messages is locked"):
            await erasure.clear_views()
        rebuild.rollback()
    await owner.close()


async def test_a_projector_that_comes_late_brings_nothing_back(place: Place) -> None:
    async with opened_log(place.database) as log:
        late = Run(log, account_id=place.account)
        await late.finish(CANARY)
        place.erase()
    async with opened_log(place.database) as log:
        await project(place.database, log)
        place.query("UPDATE checkpoints SET position = 0 WHERE name = 'messages'")
        await project(place.database, log)
    assert place.query("SELECT 1 FROM messages WHERE account_id = %s", place.account) == []


@pytest.mark.parametrize("table", ["accounts", "runs"])
async def test_who_still_sees_the_old_rows_is_named(place: Place, table: str) -> None:
    with psycopg.connect(place.database.admin_url, application_name="a long dump") as dump:
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        dump.execute(f"SELECT FROM {table}".encode())
        receipt = place.erase(code=1)
        (left,) = receipt["left"]
        assert "a long dump (pid " in left
    assert place.erase()["complete"] is True


async def test_no_byte_of_the_name_or_the_wrapped_key_stays_in_the_tables_files(
    place: Place, servers: Servers
) -> None:
    """The rows that lie last on a full page: nothing that VACUUM moves would write over them."""
    place.query(
        "INSERT INTO accounts (account_id, kind, name)"
        " SELECT gen_random_uuid(), 'person', encode(sha256(number::text::bytea), 'hex')"
        " FROM generate_series(1, 500) AS number"
    )
    place.query(
        "INSERT INTO account_data_keys (account_id, wrapped, secret_version)"
        " SELECT account_id, sha512(convert_to(name, 'UTF8')), 1 FROM accounts"
        " ON CONFLICT DO NOTHING"
    )
    for table, secret_bytes in (
        ("accounts", "convert_to(name, 'UTF8')"),
        ("account_data_keys", "wrapped"),
    ):
        ((place.account, secret),) = place.query(
            f"SELECT account_id, {secret_bytes} FROM {table}"  # noqa: S608 - no values
            " WHERE (ctid::text::point)[0] = 0 ORDER BY (ctid::text::point)[1] DESC LIMIT 1"
        )
        assert secret in files_of(servers, place, table)
        assert place.erase()["complete"] is True
        left = files_of(servers, place, table)
        assert not [at for at in range(len(secret) - PIECE) if secret[at : at + PIECE] in left]


def test_large_tables_are_written_anew_only_if_it_is_asked_for(place: Place) -> None:
    place.query(
        "INSERT INTO accounts (account_id, kind, name)"
        " SELECT gen_random_uuid(), 'person', repeat(md5(number::text), 40)"
        " FROM generate_series(1, 30000) AS number"
    )
    file = "SELECT pg_relation_filepath('accounts'::regclass)"
    before = place.query(file)
    receipt = place.erase()
    assert receipt["complete"] is True
    assert "--rewrite in a quiet hour" in receipt["notCovered"][0]
    assert place.query(file) == before
    assert "--rewrite" not in str(place.erase("--rewrite")["notCovered"])
    assert place.query(file) != before


def test_what_the_planner_keeps_of_tables_has_no_name_and_no_wrapped_key(place: Place) -> None:
    place.query("ANALYZE")
    columns = place.query(
        "SELECT tablename, attname FROM pg_stats"
        " WHERE tablename IN ('accounts', 'account_data_keys')"
    )
    assert ("accounts", "kind") in columns
    assert not {("accounts", "name"), ("account_data_keys", "wrapped")} & set(columns)


def files_of(servers: Servers, place: Place, *tables: str) -> bytes:
    """What PostgreSQL has of them on its disk."""
    place.query("CHECKPOINT")
    paths = [place.query("SELECT pg_relation_filepath(%s::regclass)", one)[0][0] for one in tables]
    return b"".join((servers.places.postgres / path).read_bytes() for path in paths)


async def test_exports_and_sandboxes_of_the_account_go_and_those_of_others_stay(
    place: Place,
) -> None:
    mine = [
        place.export("mine", place.account),
        place.export("deep/unfinished", place.account, "unfinished.json"),
        place.sandbox(place.runs[0]),
    ]
    others = [place.export("other", place.org), place.data_dir / "exports"]
    others.append(place.data_dir / "sandboxes")
    receipt = place.erase()

    assert not any(folder.exists() for folder in mine)
    assert all(folder.exists() for folder in others)
    assert receipt["cleared"]["exportBundles"] == 2
    assert receipt["cleared"]["sandboxes"] == 1


async def test_a_sandbox_goes_by_its_session_and_by_what_it_says_of_itself(place: Place) -> None:
    """A half-made one says nothing yet; one of a session that the heads lack says whose it is."""
    half_made = place.sandbox(place.runs[0])
    (half_made / "made.json").unlink()
    async with opened_log(place.database) as log:
        theirs = [Run(log, account_id=place.org) for _ in range(2)]
        for run in theirs:
            await run.finish()
    lost = place.sandbox(theirs[0], account=place.account)
    other = place.sandbox(theirs[1])
    receipt = place.erase()

    assert receipt["cleared"]["sandboxes"] == 2
    assert [one.exists() for one in (half_made, lost, other)] == [False, False, True]


async def test_what_may_be_the_account_s_and_cannot_be_told_is_named(
    place: Place, tmp_path: Path
) -> None:
    nameless = place.export("nameless", None)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (place.data_dir / "exports" / "link").symlink_to(elsewhere)
    receipt = place.erase(code=1)

    assert receipt["complete"] is False
    assert sorted(receipt["left"]) == [
        f"{place.data_dir}/exports/link: a link, which is not followed",
        f"{nameless}: it may be an export of this account: it does not say whose",
    ]
    assert elsewhere.exists()


async def test_a_dead_run_of_an_erased_account_is_not_repeated(place: Place) -> None:
    async with opened_log(place.database) as log:
        dead = Run(log, account_id=place.account)
        await dead.start()
        await dead.do(
            c.FailRun(attempt=Attempt(1), code="tries_exhausted", sentence="5 tries"),
            c.RecordSandboxReleased(found=False),
        )
    run = dead.run_id
    place.query(
        "INSERT INTO dead_letters (kind, id, reason, account_id, last_error, tries, withheld)"
        " VALUES ('run', %s, 'tries_exhausted', %s, 'KeyError at a.py:7', 5, false)",
        run,
        place.account,
    )
    assert place.erase()["complete"] is True
    refused = run_script("dead_letters.py", "retry", str(run), env=place.env)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"dead_letters: {run}: its content was erased, so there is nothing to repeat\n"
    )
    shown = run_script("dead_letters.py", "show", str(run), "--content", env=place.env)
    assert shown.returncode == 0, shown.stderr
    dropped = run_script("dead_letters.py", "drop", str(run), env=place.env)
    assert dropped.returncode == 0, dropped.stderr
