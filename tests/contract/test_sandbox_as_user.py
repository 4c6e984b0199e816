"""The sandbox tests once more as an ordinary user, where the suite is run by root."""

import os
import re
import subprocess
import sys

import pytest

SUITES = (
    "test_sandbox.py",
    "test_sandbox_probe.py",
    "test_sandbox_hostile.py",
    "test_sandbox_broker.py",
)
PASSED_MIN = 100

if os.geteuid() == 0:  # an ordinary user's own run of those files is that proof

    @pytest.mark.timeout(400)
    def test_all_of_it_holds_for_an_ordinary_user_too() -> None:
        files = [f"tests/contract/{name}" for name in SUITES]

        run = subprocess.run(  # noqa: S603 - our own tests
            [sys.executable, "-m", "tests.support.as_nobody", "-q", *files],
            check=False,
            capture_output=True,
            text=True,
            timeout=390,
        )

        assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
        passed = re.search(r"(\d+) passed", run.stdout)
        assert passed is not None
        assert int(passed[1]) >= PASSED_MIN
