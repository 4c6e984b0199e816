"""An account whose runs are live when it is erased."""

import re

from runs_domain import commands as c
from runs_domain.handle import load
from runs_domain.ids import Attempt
from runs_domain.storage.erasure import RUNS_PER_PAGE
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_pubsub import RedisPubSub
from runs_domain.storage.sealing import DATA_KEY_SECONDS_MAX
from tests.support.eraser import erasing
from tests.support.erasures import DESTROYED, NAME, Place, opened_log, request
from tests.support.log_streams import Run
from tests.support.operators import started_script


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
        assert place.has_key()

        forced = place.erase("--wait-seconds", "0", "--force", code=1)
        assert (forced["complete"], forced["finishedAt"]) == (False, None)
        (left,) = forced["left"]
        assert str(live.run_id) in left
        assert not place.has_key()
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
    assert place.has_key()


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
        assert not place.has_key()
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
