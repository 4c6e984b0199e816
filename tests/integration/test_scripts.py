"""What the scripts say when they are asked for something they do not have."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 20.0


def run(*argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 - our own script
        [str(ROOT / "scripts" / argv[0]), *argv[1:]],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )


def test_check_tells_its_steps_when_asked() -> None:
    ended = run("check", "--help")

    assert ended.returncode == 0
    assert "usage: scripts/check [STEP…]" in ended.stdout
    assert "steps: format lint types imports compose events words shell" in ended.stdout


@pytest.mark.parametrize("step", ["frmat", "--fix", "", "format lint"])
def test_check_refuses_a_step_that_there_is_not_before_it_runs_any(step: str) -> None:
    ended = run("check", "format", step)

    assert ended.returncode == 2
    assert f'there is no step "{step}"' in ended.stderr
    assert "usage: scripts/check [STEP…]" in ended.stderr
    assert ended.stdout == ""
