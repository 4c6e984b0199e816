"""Exports and checks of logs that are many times larger than a page: their memory."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runs_domain.ids import AccountId
from tests.support.bundles import Bundle
from tests.support.operators import BARE_PYTHON, SCRIPTS, environment_of, run_bare, run_script
from tests.support.servers import Database, as_owner

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SMALL, LARGE = 1_000, 10_000
"""Runs; a hundred runs have nine hundred events."""
EXPORT_MIB_MAX = 100
CHECK_MIB_MAX = 60
GROWTH_MIB_MAX = 12
"""What chance in the allocators may make of nine times as many events."""


def seeded(database: Database, runs: int, seed: int) -> AccountId:
    """An account of its own with so many runs, of which all have ended."""
    known = accounts_in(database)
    done = run_script(
        "seed_log.py",
        *("--runs", str(runs), "--accounts", "1", "--seed", str(seed), "--append", "--json"),
        env=environment_of(database, owner=True),
        seconds_max=600,
    )
    assert done.returncode == 0, done.stderr
    (account,) = accounts_in(database) - known
    return account


def accounts_in(database: Database) -> set[AccountId]:
    found = as_owner(database, "SELECT DISTINCT account_id FROM run_heads")
    return {account for (account,) in found}


SPAWN = """
import os, sys
out = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=out)
_, status, used = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss)
"""
"""By a small process: a child's peak begins with what its parent had when it was made."""


def peak_mib(environment: dict[str, str], *argv: object) -> float:
    """Of a process that ends well."""
    done = run_bare("-c", SPAWN, *argv, env=environment, seconds_max=600)
    assert done.returncode == 0, done.stderr
    code, peak_kib = done.stdout.split()
    assert code == "0", done.stderr
    return int(peak_kib) / 1024


def test_memory_does_not_grow_with_the_history(
    database: Database, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    peaks: dict[int, tuple[float, float]] = {}
    for runs in (SMALL, LARGE):
        account = seeded(database, runs, seed=runs)
        out = tmp_path / str(runs)
        exporting = peak_mib(
            environment_of(database),
            *(sys.executable, SCRIPTS / "export_history.py", "--account", account),
            *("--out", out, "--unsealed"),
        )
        assert Bundle(out).manifest["counts"]["runs"] == runs
        checking = peak_mib(
            {}, *(BARE_PYTHON, "-S", SCRIPTS / "verify_history.py", "--bundle", out)
        )
        peaks[runs] = (exporting, checking)
    record_property("peaks in MiB, export and check", peaks)
    assert peaks[LARGE][0] < EXPORT_MIB_MAX
    assert peaks[LARGE][1] < CHECK_MIB_MAX
    for small, large in zip(*peaks.values(), strict=True):
        assert large - small < GROWTH_MIB_MAX
