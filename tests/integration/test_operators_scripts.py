"""What is true of every script for operators: no packages, servers that hang."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.settings import Secret
from runs_domain.storage.snapshot import open_snapshot
from tests.support.operators import SCRIPTS, environment_of, run_bare, run_program, run_script
from tests.support.redis_weather import frozen
from tests.support.servers import create_database
from workers.stack.servers import Servers

NO_SETTINGS = {"PATH": os.environ["PATH"]}
ID = "00000000-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    "name",
    [
        *("check_invariants", "dead_letters", "erase_account", "export_history"),
        *("jobs", "keys", "rebuild_projections", "replay_run", "verify_views"),
    ],
)
def test_a_script_without_the_packages_says_how_to_run_it(name: str) -> None:
    ended = run_bare(SCRIPTS / f"{name}.py", env=NO_SETTINGS)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"{name}.py: run it with .venv/bin/python scripts/{name}.py\n"


def test_a_log_is_not_verified_without_the_packages_either() -> None:
    """Only a bundle is: until it is known what is wanted, the script imports none of them."""
    ended = run_bare(SCRIPTS / "verify_history.py", "--all", env=NO_SETTINGS)
    assert (ended.returncode, ended.stdout) == (2, "")
    said = "verify_history.py: run it with .venv/bin/python scripts/verify_history.py\n"
    assert ended.stderr == said


def test_a_copy_that_can_only_check_bundles_says_so_of_a_log(tmp_path: Path) -> None:
    """Its exit code is not that of a log in which something is wrong."""
    shutil.copy(SCRIPTS / "verify_history.py", tmp_path)
    ended = run_bare(tmp_path / "verify_history.py", "--all", env=NO_SETTINGS)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "verify_history: could not look: verify_log.py is not beside it\n"


INTERRUPTED_WHILE_IMPORTING = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from operating.script import leave_with
signal.raise_signal(signal.SIGINT)
"""
INTERRUPTED_AT_WORK = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from operating.script import leave_with
leave_with(lambda: signal.raise_signal(signal.SIGINT), interrupted="as you were")
"""


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        (INTERRUPTED_WHILE_IMPORTING, -signal.SIGINT, ""),
        (INTERRUPTED_AT_WORK, 130, "-c: as you were\n"),
    ],
)
def test_ctrl_c_is_never_answered_with_a_traceback(program: str, code: int, said: str) -> None:
    ended = run_program([sys.executable, "-c", program, SCRIPTS], env=NO_SETTINGS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", said)


async def test_a_postgresql_that_hangs_ends_every_script_with_a_sentence(
    own_servers: Servers,
) -> None:
    database = create_database(own_servers)
    environment = environment_of(database, own_servers.redis_url, owner=True)
    scripts = (
        ("dead_letters", ("list",), 1),
        ("dead_letters", ("show", ID), 1),
        ("dead_letters", ("retry", ID), 1),
        ("check_invariants", (), 2),
        ("verify_history", ("--all",), 2),
        ("keys", ("account", "Ada"), 1),
        ("rebuild_projections", (), 1),
        ("rebuild_projections", ("--dry-run",), 2),
        ("verify_views", (), 2),
        ("replay_run", (ID,), 1),
        ("erase_account", (ID, "--yes"), 1),
        ("export_history", ("--account", ID, "--out", "/nowhere"), 1),
    )

    async def ends_with_a_sentence(name: str, arguments: tuple[str, ...], code: int) -> None:
        ended = await asyncio.to_thread(run_script, f"{name}.py", *arguments, env=environment)
        assert (ended.returncode, ended.stdout) == (code, "")
        (sentence,) = ended.stderr.splitlines()
        assert sentence.startswith(f"{name}: ")
        assert "PostgreSQL cannot be reached (no connection within 5 s)" in sentence
        assert "DATABASE_URL" in sentence

    with frozen(own_servers.postgres.child):
        await asyncio.gather(*(ends_with_a_sentence(*one) for one in scripts))


async def test_a_postgresql_that_begins_to_hang_ends_a_long_read_at_its_deadline(
    own_servers: Servers,
) -> None:
    database = create_database(own_servers)
    url = Secret(database.url)
    async with open_snapshot(url, name="check", page_seconds_max=0.2) as snapshot:
        assert await snapshot.fetch("SELECT 1") == [(1,)]
        with frozen(own_servers.postgres.child):
            reads = [snapshot.fetch("SELECT 1") for _ in range(3)]
            for answer in await asyncio.gather(*reads, return_exceptions=True):
                assert isinstance(answer, StoreUnavailable), answer
        with pytest.raises(StoreUnavailable):
            await snapshot.fetch("SELECT 1")
