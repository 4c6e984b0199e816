"""The probe on hosts where a sandbox cannot be made: a sentence with the remedy, nothing left."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sandboxes import count_in
from workers.adapters.sandbox_local.probe import NAME, probe

PROBE = (
    "import asyncio, sys, pathlib; from workers.adapters.sandbox_local.probe import probe; "
    "print(asyncio.run(probe(pathlib.Path(sys.argv[1]))).text)"
)
SECONDS_MAX = 50.0


def probed_in(data_dir: Path, *namespace: str) -> str:
    """What the probe says when it is run by `namespace`."""
    argv = [*namespace, sys.executable, "-c", PROBE, str(data_dir)]
    ended = subprocess.run(  # noqa: S603 - our own argv
        argv, check=True, capture_output=True, text=True, timeout=SECONDS_MAX
    )
    return ended.stdout


def test_where_namespaces_are_off_the_probe_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    off = 'echo 1 >/proc/sys/user/max_user_namespaces; exec unshare --user --map-user=1000 "$@"'

    said = probed_in(tmp_path, "unshare", "--user", "--map-root-user", "sh", "-c", off, "sh")

    assert "user.max_user_namespaces" in said
    assert count_in(tmp_path / "sandboxes") == 0


def test_root_of_a_namespace_with_few_users_is_told_what_to_do(tmp_path: Path) -> None:
    said = probed_in(tmp_path, "unshare", "--user", "--map-root-user")

    assert "Start the worker as an ordinary user" in said
    assert count_in(tmp_path) == 0


async def test_workers_that_start_at_once_all_pass_and_leave_nothing(tmp_path: Path) -> None:
    verdicts = await asyncio.gather(*(probe(tmp_path) for _ in range(4)))

    assert [verdict.text for verdict in verdicts if not verdict.ok] == []
    assert count_in(tmp_path / "sandboxes") == 0


async def test_what_a_killed_probe_left_is_removed_first(tmp_path: Path) -> None:
    left = tmp_path / "sandboxes" / NAME / "workspace" / "deep"
    left.mkdir(parents=True)
    (left.parent.parent / "made.json").write_text("not even JSON")

    verdict = await probe(tmp_path)

    assert verdict.ok, verdict.text
    assert count_in(tmp_path / "sandboxes") == 0


@pytest.mark.parametrize("place", ["/proc/x", "/dev/null/x"])
async def test_a_data_directory_that_cannot_be_made_is_told(place: str) -> None:
    verdict = await probe(Path(place))

    assert not verdict.ok
    assert place in verdict.text
