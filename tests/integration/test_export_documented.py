"""docs/export.md, read as an outsider reads it: its example, its recipe, its list of files."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bundle_edits import at, restated
from tests.support.bundles import Bundle, exported
from tests.support.operators import SCRIPTS, run_bare
from tests.support.some_history import SomeHistory, some_history
from workers.stack.servers import Servers

ROOT = SCRIPTS.parent
PAGE = (ROOT / "docs" / "export.md").read_text("utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def history(servers: Servers) -> Iterator[SomeHistory]:
    with some_history(servers) as made:
        yield made


@pytest.fixture
def bundle(history: SomeHistory, tmp_path: Path) -> Bundle:
    return exported(history.database, history.account, tmp_path / "out", "--unsealed")


def bare(*arguments: object, given: str = "") -> tuple[int, str]:
    done = run_bare(*arguments, input=given)
    return done.returncode, done.stdout + done.stderr


def test_the_recipe_checks_a_run_by_hand(bundle: Bundle) -> None:
    for run in bundle.objects("runs"):
        code, words = bare("-", bundle.place, run["runId"], given=block("python"))
        assert (code, words) == (
            0,
            f"run {run['runId']}: {run['events']} events, each bound to the one before\n",
        )
    first = bundle.objects("runs")[0]["runId"]
    other = at(1, lambda line: restated(line, lambda stored: stored.replace(b"none", b"nine")))
    bundle.change("events-00001.ndjson", other, forged=True)
    code, words = bare("-", bundle.place, first, given=block("python"))
    assert (code, words.splitlines()[-1]) == (1, "AssertionError: version 3")


def test_the_example_is_an_event_as_bundles_have_them(bundle: Bundle) -> None:
    example = json.loads(block("json"))
    event = next(one for one in bundle.objects("events") if one["type"] == example["type"])
    assert list(example) == list(event)
    told = f"""
import sys
sys.path[:0] = ["{SCRIPTS}", "{ROOT / "src"}"]
from bundle_check.events import read_event
print(read_event(sys.stdin.buffer.readline()).wrong)
"""
    assert bare("-c", told, given=block("json")) == (0, "None\n")


def test_every_name_in_a_bundle_is_explained(bundle: Bundle) -> None:
    names = {*bundle.manifest, *bundle.manifest["counts"], *bundle.manifest["window"]}
    for kind in ("runs", "events", "content"):
        names |= set(bundle.objects(kind)[0])
    for name in names:
        assert f"`{name}`" in PAGE or f"`{name}`," in PAGE, name


def test_the_files_that_are_named_are_all_that_a_check_needs(
    bundle: Bundle, tmp_path: Path
) -> None:
    scripts, domain = tmp_path / "scripts", tmp_path / "src" / "runs_domain"
    scripts.mkdir()
    domain.mkdir(parents=True)
    for name in ("verify_history.py", "bundle_check/"):
        assert f"{name}`" in PAGE
    shutil.copy(SCRIPTS / "verify_history.py", scripts)
    shutil.copytree(SCRIPTS / "bundle_check", scripts / "bundle_check")
    for pattern in ("__init__.py", "ids.py", "proof*.py"):
        assert f"`{pattern}`" in PAGE
        for path in (ROOT / "src" / "runs_domain").glob(pattern):
            shutil.copy(path, domain)
    code, words = bare(scripts / "verify_history.py", "--bundle", bundle.place)
    assert code == 0, words
