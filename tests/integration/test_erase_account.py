"""`scripts/erase_account.py` on a real database, a real Redis and a data folder."""

import asyncio
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid5

import psycopg
import pytest
from redis import Redis

from runs_domain import commands as c
from runs_domain.errors import ContentErased, StaleAttempt
from runs_domain.handle import load
from runs_domain.ids import Attempt
from runs_domain.settings import Secret
from runs_domain.storage import redis_names as names
from runs_domain.storage.accounts import Accounts
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.erasure import RUNS_PER_PAGE
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_pubsub import RedisPubSub
from runs_domain.storage.sealing import DATA_KEY_SECONDS_MAX
from tests.support.eraser import erasing
from tests.support.erasures import CANARY, NAME, Place, furnished, opened_log, project, request
from tests.support.log_streams import SECRETS, Run
from tests.support.operators import SCRIPTS, run_script, started_script
from tests.support.servers import Database
from workers.stack.servers import Servers

STEPS = 12
DESTROYED = 4
"""The step that destroys the key."""
PIECE = 12
"""So many bytes of a secret are found by no chance."""


@pytest.fixture
async def place(database: Database, redis_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with furnished(database, redis_url, tmp_path) as one:
        yield one


def has_key(place: Place) -> bool:
    sql = "SELECT 1 FROM account_data_keys WHERE account_id = %s AND wrapped IS NOT NULL"
    return bool(place.query(sql, place.account))


async def test_an_erased_account_has_no_key_no_name_no_way_in_and_an_untouched_history(
    place: Place,
) -> None:
    log_before = place.query("SELECT * FROM stored_events ORDER BY notification_id")
    receipt = place.erase("--by", "ada")

    assert receipt["complete"] is True
    assert receipt["askedBy"] == "ops:ada"
    assert receipt["kept"]["untouched"] is True
    assert receipt["kept"]["headsDigestBefore"] == receipt["kept"]["headsDigestAfter"]
    assert (receipt["kept"]["runs"], receipt["kept"]["events"]) == (2, len(log_before))
    assert receipt["cleared"] == {
        "keysRevoked": 1,
        "membershipsEnded": 1,
        "namesCleared": 1,
        "runsCancelled": 0,
        "messageRows": 4,
        "chunkKeys": 4,
        "exportBundles": 0,
        "sandboxes": 0,
    }
    assert receipt["left"] == []
    assert not has_key(place)
    assert place.query("SELECT name FROM accounts WHERE account_id = %s", place.account) == [("",)]
    assert place.query("SELECT * FROM stored_events ORDER BY notification_id") == log_before
    assert place.query("SELECT 1 FROM messages WHERE account_id = %s", place.account) == []
    assert place.query("SELECT 1 FROM org_members WHERE valid_until IS NULL") == []
    assert place.query("SELECT 1 FROM api_keys WHERE revoked_at IS NULL AND NOT ephemeral") == []
    assert place.chunk_keys() == set()
    async with opened_log(place.database) as log:
        stream = await log.read(place.runs[0].run_id)
        assert {one.type for one in stream if one.erased} == {
            "run.requested.v1",
            "run.message_persisted.v1",
        }
        with pytest.raises(ContentErased):
            await request(log, place.account)


def test_the_receipt_for_people_says_the_same(place: Place) -> None:
    said = run_script_erase(place)
    assert "erased:        yes" in said
    assert "history:       untouched" in said
    assert f"account:       {place.account} (person)" in said
    assert "4 rows of message views deleted" in said
    assert "backups" in said
    assert CANARY not in said
    assert NAME not in said


def run_script_erase(place: Place) -> str:
    place.erase()
    done = run_script("erase_account.py", str(place.account), "--yes", env=aged(place).env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def aged(place: Place) -> Place:
    """The key was destroyed long ago: nobody has it in a cache, so nobody is waited for."""
    sql = "UPDATE account_data_keys SET destroyed_at = now() - interval '1 hour'"
    place.query(sql + " WHERE account_id = %s", place.account)
    return place


def test_an_unknown_account_is_refused_and_so_is_one_nobody_confirms(place: Place) -> None:
    stranger = str(uuid5(place.account, "stranger"))
    unknown = run_script("erase_account.py", stranger, "--yes", env=place.env)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == f"erase_account: no such account: {stranger}\n"

    alone = run_script("erase_account.py", str(place.account), env=place.env)
    assert alone.returncode == 1
    assert "--yes says that it is meant" in alone.stderr
    malformed = run_script("erase_account.py", "ada", "--yes", env=place.env)
    assert malformed.returncode == 2
    assert has_key(place)
    assert place.query("SELECT 1 FROM erasures") == []


@pytest.mark.parametrize(("typed", "code"), [("account", 0), ("yes", 1)])
def test_on_a_terminal_the_account_s_id_is_typed(place: Place, typed: str, code: int) -> None:
    place.query("UPDATE accounts SET name = 'x' WHERE account_id = %s", place.account)
    sql = "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = now() - interval '1 hour'"
    place.query(sql)  # so that no cache is waited for
    master, slave = pty.openpty()
    script = [sys.executable, str(SCRIPTS / "erase_account.py"), str(place.account)]
    with subprocess.Popen(  # noqa: S603 - our own argv
        script, env=place.env, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as asked:
        os.write(master, f"{place.account if typed == 'account' else typed}\n".encode())
        assert asked.wait(30) == code
    os.close(master)
    os.close(slave)
    ((name,),) = place.query("SELECT name FROM accounts WHERE account_id = %s", place.account)
    assert name == ("" if code == 0 else "x")


def test_nothing_is_changed_while_redis_is_away_or_the_owner_unknown(place: Place) -> None:
    away = place.erase(code=1, RUNLEDGER_REDIS_URL="redis://:canary-password@127.0.0.1:1/0")
    assert "Redis cannot be reached" in away["said"]
    assert "canary" not in away["said"]
    ownerless = place.erase(code=2, RUNLEDGER_ADMIN_DATABASE_URL="")
    assert "RUNLEDGER_ADMIN_DATABASE_URL is not set" in ownerless["said"]
    assert has_key(place)
    assert place.query("SELECT 1 FROM erasures") == []


# ------------------------------------------------------------------------------ cut short


async def test_killed_after_the_key_is_destroyed_the_same_command_finishes_it(
    place: Place,
) -> None:
    place.erase(killed_after=DESTROYED, code=-9)
    assert not has_key(place)
    ((finished, digest),) = place.query(
        "SELECT finished_at, encode(heads_digest, 'hex') FROM erasures"
    )
    assert finished is None
    receipt = place.erase("--by", "somebody.else")

    assert receipt["complete"] is True
    assert receipt["kept"]["headsDigestBefore"] == digest
    assert receipt["cleared"]["keysRevoked"] == 1
    assert receipt["cleared"]["messageRows"] == 4
    assert receipt["askedBy"] != "ops:somebody.else"


@pytest.mark.long
@pytest.mark.parametrize("steps", range(1, STEPS + 1))
async def test_killed_after_any_step_the_same_command_finishes_it(place: Place, steps: int) -> None:
    place.erase(killed_after=steps, code=-9)
    receipt = place.erase()

    assert receipt["complete"] is True
    assert receipt["cleared"] == {
        "keysRevoked": 1,
        "membershipsEnded": 1,
        "namesCleared": 1,
        "runsCancelled": 0,
        "messageRows": 4,
        "chunkKeys": 4 if steps < 5 else receipt["cleared"]["chunkKeys"],
        "exportBundles": 0,
        "sandboxes": 0,
    }
    assert place.chunk_keys() == set()
    assert place.query("SELECT 1 FROM messages WHERE account_id = %s", place.account) == []


def test_erased_twice_it_stays_as_it_was_the_first_time(place: Place) -> None:
    first, second = place.erase(), place.erase()
    for same in ("askedAt", "askedBy", "keyDestroyedAt", "kept"):
        assert first[same] == second[same]
    assert second["complete"] is True
    assert second["cleared"]["messageRows"] == 4


def test_a_history_that_was_touched_meanwhile_is_no_success_and_is_told(place: Place) -> None:
    place.erase(killed_after=DESTROYED, code=-9)
    place.query(
        "UPDATE stored_events SET state = state || ' ' WHERE originator_version = ("
        " SELECT max(version) FROM run_heads)"
    )
    receipt = place.erase(code=1)
    assert receipt["kept"]["untouched"] is False
    assert (receipt["complete"], receipt["finishedAt"]) == (False, None)
    assert receipt["kept"]["headsDigestBefore"] != receipt["kept"]["headsDigestAfter"]

    told = run_script("erase_account.py", str(place.account), "--yes", env=aged(place).env)
    assert told.returncode == 1
    assert "erased:        NOT COMPLETELY" in told.stdout
    assert "history:       NOT AS IT WAS: run scripts/verify_history.py" in told.stdout


async def test_two_operators_at_once_are_in_nobody_s_way(place: Place) -> None:
    first, second = await asyncio.gather(
        asyncio.to_thread(place.erase, "--by", "ada"),
        asyncio.to_thread(place.erase, "--by", "bob"),
    )
    assert first["complete"] is second["complete"] is True
    assert first["askedBy"] == second["askedBy"]
    assert place.erase()["cleared"]["messageRows"] == 4


# ------------------------------------------------------------------------------ runs


async def test_queued_runs_are_cancelled_and_leave_their_sandbox_to_the_reconciler(
    place: Place,
) -> None:
    async with opened_log(place.database) as log:
        run = await request(log, place.account)
        receipt = place.erase("--wait-seconds", "0.5")
        assert [one.type for one in await log.read(run.run_id)] == [
            "run.requested.v1",
            "run.cancel_requested.v1",
            "run.cancelled.v1",
        ]
    assert receipt["complete"] is True
    assert receipt["cleared"]["runsCancelled"] == 1
    assert receipt["kept"]["runs"] == 3


async def test_a_run_that_does_not_end_keeps_the_key_until_it_is_forced(place: Place) -> None:
    async with opened_log(place.database) as log:
        live = Run(log, account_id=place.account)
        await live.start()
        place.stream(live.run_id)
        refused = place.erase("--wait-seconds", "0", code=1)
        assert (refused["complete"], refused["keyDestroyedAt"]) == (False, None)
        assert str(live.run_id) in refused["left"][0]
        assert (
            f"1 live run did not end, so the data key was not destroyed: {live.run_id}"
            in (refused["said"])
        )
        assert has_key(place)

        forced = place.erase("--wait-seconds", "0", "--force", code=1)
        assert (forced["complete"], forced["finishedAt"]) == (False, None)
        (left,) = forced["left"]
        assert str(live.run_id) in left
        assert not has_key(place)
        assert place.chunk_keys() == set()

        place.stream(live.run_id)
        live.stream = await load(log, live.run_id)
        await live.do(c.CancelRun(attempt=Attempt(1)), c.RecordSandboxReleased(found=False))
    receipt = place.erase()
    assert receipt["complete"] is True
    assert receipt["kept"]["untouched"] is True
    assert receipt["cleared"]["runsCancelled"] == 1
    assert place.chunk_keys() == set()


async def test_a_live_run_behind_a_page_of_unreleased_sandboxes_keeps_the_key(
    place: Place,
) -> None:
    """Ended runs that wait for their sandbox's end are open as well, and may be many."""
    place.query("SELECT setval('stored_events_notification_id_seq', 10000)")
    place.query(
        "INSERT INTO run_heads (run_id, account_id, chat_id, session_id, version, status, live,"
        " open, head_hash, requested_position, updated_at)"
        " SELECT gen_random_uuid(), %s, gen_random_uuid(), gen_random_uuid(), 1, 'completed',"
        " false, true, '', 1000 + number, now() FROM generate_series(1, %s) AS number",
        place.account,
        RUNS_PER_PAGE,
    )
    async with opened_log(place.database) as log:
        live = Run(log, account_id=place.account)
        await live.start()
    refused = place.erase("--wait-seconds", "0", code=1)
    assert (
        f"1 live run did not end, so the data key was not destroyed: {live.run_id}"
        in (refused["said"])
    )
    assert has_key(place)


async def test_a_live_run_keeps_what_it_works_with_until_it_has_ended(
    place: Place, redis: PipelinedRedis
) -> None:
    """Its key, its sandbox and its way to readers: forced or not, no tool loses its ground."""
    pubsub = RedisPubSub(redis)
    chunks = RedisChunks(redis, pubsub)
    async with opened_log(place.database) as log:
        live = Run(log, account_id=place.account)
        await live.start()
    sandbox = place.sandbox(live)
    forced = place.erase("--wait-seconds", "0", "--force", code=1)

    assert f"{sandbox}: its run has not ended" in forced["left"]
    assert (sandbox / "workspace" / "notes").exists()
    assert len(place.query("SELECT 1 FROM api_keys WHERE ephemeral AND revoked_at IS NULL")) == 1
    fence = await chunks.raise_attempt(live.run_id, Attempt(1))
    assert await chunks.write(live.run_id, fence, 0, [b"a"])
    await pubsub.close()


async def test_nobody_is_trusted_with_the_key_before_every_cache_has_lost_it(place: Place) -> None:
    """It is finished after the wait, which is as long as a cache and a call under way may last."""
    erase = ("erase_account.py", str(place.account), "--yes")
    with started_script(*erase, env=place.env) as script:
        assert script.stderr is not None
        said = script.stderr.readline()
        assert re.fullmatch(
            r"erase_account: waiting 3[45] s until no process has the key.*\n", said
        )
        assert not has_key(place)
        assert place.query("SELECT 1 FROM erasures WHERE finished_at IS NOT NULL") == []
    assert DATA_KEY_SECONDS_MAX < 34.0


def test_what_comes_back_while_caches_are_waited_for_goes_too(place: Place) -> None:
    """A projector and a worker that had the key in hand write once more; an operator who had looked
    before the key was destroyed gives the account a key and a name.
    """
    rows = place.query("SELECT * FROM messages WHERE account_id = %s", place.account)
    place.erase(killed_after=DESTROYED, code=-9)
    place.query("UPDATE account_data_keys SET destroyed_at = clock_timestamp() + interval '5 s'")
    with erasing(place.account, "--yes", "--json", env=place.env) as script:
        assert script.stderr is not None
        assert "until no process has the key in memory" in script.stderr.readline()
        assert place.query("SELECT 1 FROM messages WHERE account_id = %s", place.account) == []
        for row in rows:
            values = ", ".join(["%s"] * len(row))
            place.query(f"INSERT INTO messages VALUES ({values})", *row)  # noqa: S608
        place.stream(place.runs[0].run_id)
        place.query("UPDATE api_keys SET revoked_at = NULL WHERE NOT ephemeral")
        place.query("UPDATE accounts SET name = %s WHERE account_id = %s", NAME, place.account)
        assert script.wait(30) == 0

    assert place.query("SELECT 1 FROM messages WHERE account_id = %s", place.account) == []
    assert place.chunk_keys() == set()
    assert place.query("SELECT 1 FROM api_keys WHERE revoked_at IS NULL AND NOT ephemeral") == []
    assert place.query("SELECT name FROM accounts WHERE account_id = %s", place.account) == [("",)]


async def test_a_broken_run_is_named_with_what_ends_it(place: Place) -> None:
    async with opened_log(place.database) as log:
        live = Run(log, account_id=place.account)
        await live.start()
    place.query(
        "INSERT INTO dead_letters (kind, id, reason, account_id, last_error, tries, withheld)"
        " VALUES ('run', %s, 'broken', %s, 'KeyError at a.py:7', 3, true)",
        live.run_id,
        place.account,
    )
    refused = place.erase("--wait-seconds", "0", code=1)
    assert f"{live.run_id} (drop its dead letter)" in refused["said"]


# ------------------------------------------------------------------------------ what is left


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


# ------------------------------------------------------------------------------ organisations


async def test_an_organisation_goes_without_its_members(place: Place) -> None:
    member, place.account = place.account, place.org
    receipt = place.erase()

    assert (receipt["complete"], receipt["kind"]) == (True, "org")
    assert receipt["cleared"]["membershipsEnded"] == 1
    assert receipt["cleared"]["messageRows"] == 0
    assert len(place.query("SELECT 1 FROM messages WHERE account_id = %s", member)) == 4
    place.account = member
    assert has_key(place)


async def test_an_account_that_never_had_a_run_gets_none_after_its_erasure(place: Place) -> None:
    place.account = place.org
    assert place.erase()["kept"]["runs"] == 0
    async with opened_log(place.database) as log:
        with pytest.raises(ContentErased):
            await request(log, place.org)


async def test_an_erased_account_gets_no_new_name(place: Place) -> None:
    """Also from whoever makes accounts by known ids."""
    place.erase()
    owner = ReconnectingConnection(Secret(place.database.admin_url), name="test", seconds_max=10.0)
    accounts = Accounts(owner, SECRETS, "recoup_sk_")
    await accounts.create("person", NAME, account_id=place.account)
    await accounts.create("org", "A new name", account_id=place.org)
    await owner.close()
    found = dict(place.query("SELECT account_id, name FROM accounts"))
    assert found == {place.account: "", place.org: "A new name"}


def test_an_erased_account_gets_no_new_key(place: Place) -> None:
    place.erase()
    refused = run_script("keys.py", "mint", str(place.account), env=place.env)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "keys: the account was erased\n"


def test_the_service_s_role_can_neither_erase_nor_touch_the_record(place: Place) -> None:
    place.erase()
    for statement in (
        "UPDATE account_data_keys SET wrapped = ''::bytea, destroyed_at = NULL",
        "DELETE FROM account_data_keys",
        "UPDATE accounts SET name = 'x'",
        "SELECT * FROM erasures",
        "DELETE FROM erasures",
    ):
        with (
            psycopg.connect(place.database.url, autocommit=True) as service,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            service.execute(statement)
