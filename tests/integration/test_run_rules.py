"""The rules by which a run of these tests counts as green."""

import pytest

SAMPLE = """
import pytest

def test_plain(): pass

@pytest.mark.long
def test_sweep(): pass
"""
SKIPPING = """
import pytest

def test_plain(): pass

def test_elsewhere(): pytest.skip("no such program here")
"""
OPTIONS = (
    *("-p", "tests.support.run_rules", "-p", "no:randomly", "-p", "no:asyncio"),
    *("-o", "markers=long: a sweep"),
)


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def test_sweeps_run_only_when_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SAMPLE)

    pytester.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=1, deselected=1)
    pytester.runpytest_inprocess(*OPTIONS, "--long").assert_outcomes(passed=2)


def test_a_skip_is_loud_and_fails_the_run_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(SKIPPING)

    here = pytester.runpytest_inprocess(*OPTIONS)
    monkeypatch.setenv("CI", "true")
    in_ci = pytester.runpytest_inprocess(*OPTIONS)

    assert here.ret == pytest.ExitCode.OK
    here.stdout.fnmatch_lines(["NOT TESTED HERE: 1 skipped*"])
    assert in_ci.ret == pytest.ExitCode.TESTS_FAILED
