"""`scripts/erase_account.py` on a real database, a real Redis and a data folder."""

import os
import pty
import subprocess
import sys
from uuid import uuid5

import psycopg
import pytest

from runs_domain.errors import ContentErased
from runs_domain.settings import Secret
from runs_domain.storage.accounts import Accounts
from runs_domain.storage.connection import ReconnectingConnection
from tests.support.erasures import CANARY, NAME, Place, opened_log, request
from tests.support.log_streams import SECRETS
from tests.support.operators import SCRIPTS, run_script


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
    assert not place.has_key()
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
    done = run_script("erase_account.py", str(place.account), "--yes", env=place.aged().env)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    assert place.has_key()
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
    assert place.has_key()
    assert place.query("SELECT 1 FROM erasures") == []


async def test_an_organisation_goes_without_its_members(place: Place) -> None:
    member, place.account = place.account, place.org
    receipt = place.erase()

    assert (receipt["complete"], receipt["kind"]) == (True, "org")
    assert receipt["cleared"]["membershipsEnded"] == 1
    assert receipt["cleared"]["messageRows"] == 0
    assert len(place.query("SELECT 1 FROM messages WHERE account_id = %s", member)) == 4
    place.account = member
    assert place.has_key()


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
