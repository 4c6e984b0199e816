"""A rehearsal of the next shapes of an event, as docs/events.md tells to make them: the source is
copied and edited, and the copy must make of every stored byte what this release makes of it.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.next_release import READERS_FIRST, THIRD, made
from tests.support.retold import everything

ROOT = Path(__file__).parents[2]
RUN_SECONDS_MAX = 50


def run_under(source: Path, *arguments: str, stdin: bytes = b"") -> Any:
    """The JSON that a module of the tests prints when it runs on another release."""
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{source}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        input=stdin,
        capture_output=True,
        timeout=RUN_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout)


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("third"), THIRD)


def retold(requested: dict[str, Any], *, with_content: bool) -> dict[str, Any]:
    """What the third shape makes of the first."""
    new = dict(requested)
    new["digestKind"], new["digest"] = "sha256", new.pop("requestDigest")
    for old, name in (
        ("artistId", "artist"),
        ("title", "runTitle"),
        ("organizationId", "organization"),
    ):
        if old in new:
            new[name] = new.pop(old)
    if not with_content:
        new.pop("artist", None)
    return new


async def test_invariant_10_what_the_first_shape_stored_is_read_in_the_third(third: Path) -> None:
    """A field renamed, one split, one of another type, sealed ones moved, in two steps: state,
    views, messages, frames, audit and answers are as they were, and the history shows the bytes.
    """
    now = await everything()
    then = run_under(third, "tests.support.retold")

    assert then.keys() == now.keys()
    for name, before in now.items():
        after = then[name]
        for reading in ("whole", "outline", "erased"):
            requested = before[reading]["requested"]
            # The artist stood in clear, so only who leaves content out does not get it.
            expected = retold(requested, with_content=reading != "outline")
            assert after[reading].pop("requested") == expected
            del before[reading]["requested"]
            assert after[reading]["state"].pop("requested") == expected
            del before[reading]["state"]["requested"]
            assert after[reading] == before[reading], (name, reading)
        for part in ("views", "frames", "api"):
            assert after[part] == before[part], (name, part)


async def test_invariant_10_a_run_goes_through_every_door_in_the_third_shape(third: Path) -> None:
    """Started, shown, repeated by its key, and stored as it should be, sealed fields sealed; the
    second shape, which no release writes any more, is read too.
    """
    said = run_under(third, "tests.support.third_shape")

    assert said["tag"] == "run.requested.v3"
    assert said["clear"].keys() >= {"digest", "digestKind", "accountId", "model"}
    assert said["sealed"].keys() == {"runTitle", "messages", "metadata", "artist"}
    assert said["statuses"] == [202, 202, 422, 200, 200]
    assert said["shown"] == said["clear"] | said["sealed"]
    assert said["second"] == {"organization": said["organization"], "runTitle": "A title"}


def test_invariant_10_who_is_deployed_first_reads_what_is_written_next(
    third: Path, tmp_path: Path
) -> None:
    """The first of two releases has one rule more, which reads the new shape as the old."""
    written = run_under(third, "tests.support.third_shape", "store")
    source = made(tmp_path, READERS_FIRST)

    read = run_under(source, "tests.support.third_shape", "read", stdin=written["state"].encode())

    assert read == {"title": "Scheduled generation", "artistId": written["artist"], "digests": True}
