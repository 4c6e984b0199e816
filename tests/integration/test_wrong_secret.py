"""A process with another secret than the database's would read healthy runs as corrupt."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from runs_domain.keys import ServerSecrets
from runs_domain.settings import Secret, Settings
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import open_log
from runs_domain.storage.secret_check import is_right_secret, refuse_wrong_secret
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database

REFUSAL = "RUNLEDGER_SECRET is not the one this database was sealed with"
RIGHT = "a server secret for tests, long enough"
WRONG = "another server secret for tests, as long"
SECONDS_MAX = 40.0


def other_secrets(*versions: int) -> ServerSecrets:
    return ServerSecrets({one: Secret(WRONG) for one in versions}, current=versions[0])


async def sealed(database: Database, secrets: ServerSecrets = SECRETS, *, accounts: int) -> None:
    async with open_log(Secret(database.url), secrets, SystemClock()) as log:
        for _ in range(accounts):
            one = Run(log)
            await one.do(one.request())


async def is_right(database: Database, secrets: ServerSecrets) -> bool | None:
    connection = ReconnectingConnection(Secret(database.url), name="test")
    try:
        return await is_right_secret(connection, secrets)
    finally:
        await connection.close()


def run(
    command: str,
    url: str,
    place: Path,
    secret: str = WRONG,
    *,
    default_model: str = "scripted/echo",
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 - our own argv
        [sys.executable, "-m", "workers.cli", command],
        env={
            "PATH": os.environ["PATH"],
            "RUNLEDGER_DATABASE_URL": url,
            "RUNLEDGER_REDIS_URL": "redis://127.0.0.1:1/0",
            "RUNLEDGER_SECRET": secret,
            "RUNLEDGER_SANDBOX": "none",
            "RUNLEDGER_DATA_DIR": str(place),
            "RUNLEDGER_PORT": "0",
            "RUNLEDGER_SCRIPTED_MODELS": "1",
            "RUNLEDGER_DEFAULT_MODEL": default_model,
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )


@pytest.mark.parametrize("command", ["worker", "api", "projector"])
async def test_a_process_with_another_secret_does_not_start(
    command: str, database: Database, tmp_path: Path
) -> None:
    await sealed(database, accounts=1)

    ended = run(command, database.url, tmp_path)

    assert ended.returncode == 2
    assert REFUSAL in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert WRONG not in ended.stderr


async def test_a_doctor_tells_a_wrong_secret_from_the_right_one(
    database: Database, tmp_path: Path
) -> None:
    assert "ok   secret: nothing is sealed" in run("doctor", database.url, tmp_path).stdout
    await sealed(database, accounts=1)

    assert f"FAIL secret: {REFUSAL}" in run("doctor", database.url, tmp_path).stdout
    right = run("doctor", database.url, tmp_path, RIGHT).stdout
    assert "ok   secret: the one this database was sealed with" in right


async def test_a_damaged_key_or_a_destroyed_one_stops_nobody(database: Database) -> None:
    await sealed(database, accounts=4)
    with psycopg.connect(database.admin_url) as owner:
        rows = owner.execute("SELECT account_id FROM account_data_keys").fetchall()
        (damaged,), (destroyed,) = rows[:2]
        owner.execute(
            "UPDATE account_data_keys SET wrapped = '\\x00' WHERE account_id = %s", (damaged,)
        )
        owner.execute(
            "UPDATE account_data_keys SET wrapped = NULL, destroyed_at = now()"
            " WHERE account_id = %s",
            (destroyed,),
        )

    assert await is_right(database, SECRETS) is True
    assert await is_right(database, other_secrets(1)) is False


async def test_a_few_keys_of_a_process_that_had_another_secret_change_no_verdict(
    database: Database,
) -> None:
    await sealed(database, accounts=6)
    await sealed(database, other_secrets(1), accounts=2)

    assert await is_right(database, SECRETS) is True
    assert await is_right(database, other_secrets(1)) is False


async def test_every_version_kept_is_tried_and_no_other(database: Database) -> None:
    assert await is_right(database, SECRETS) is None
    await sealed(database, accounts=1)
    both = ServerSecrets({1: Secret(RIGHT), 2: Secret(WRONG)}, current=2)

    assert await is_right(database, both) is True
    assert await is_right(database, other_secrets(2)) is None
    assert await is_right(database, other_secrets(2, 1)) is False


async def test_a_database_that_is_away_or_has_no_tables_keeps_nobody_from_starting(
    database: Database,
) -> None:
    with psycopg.connect(database.admin_url) as owner:
        owner.execute("DROP TABLE account_data_keys")

    for url in (database.url, "postgresql://nobody@127.0.0.1:1/x"):
        secret = Secret(WRONG)
        await refuse_wrong_secret(
            Settings(database_url=Secret(url), redis_url=Secret(""), secret=secret)
        )


def test_a_doctor_tells_a_refused_login_from_a_server_that_is_away(
    database: Database, tmp_path: Path
) -> None:
    login = database.url.split("://", 1)[1].split("@", 1)[0]
    role = login.split(":", 1)[0]
    for bad_login in ("nobody:wrong", f"{role}:wrong"):
        refused = database.url.replace(login, bad_login, 1)
        said = run("doctor", refused, tmp_path).stdout
        assert "FAIL postgres: cannot be used: it refuses the name or the password" in said

    missing = database.url.replace(f"/{database.name}", "/nowhere", 1)
    said = run("doctor", missing, tmp_path).stdout
    assert "FAIL postgres: cannot be used: it has no such database" in said


def test_a_doctor_notes_a_default_model_that_nobody_serves(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/x"

    assert "default model" not in run("doctor", url, tmp_path).stdout
    said = run("doctor", url, tmp_path, default_model="anthropic/claude-haiku-4.5").stdout
    assert "note default model: no adapter serves RUNLEDGER_DEFAULT_MODEL" in said
    assert "FAIL postgres: cannot be used: connection refused" in said
