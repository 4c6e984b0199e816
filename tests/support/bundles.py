"""Exported histories in tests: made by the script, checked by a bare Python, and tampered with."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.operators import SCRIPTS, environment_of, run_bare, run_script
from tests.support.servers import Database

SECONDS_MAX: Final = 60.0


def export(
    database: Database, account: object, out: Path, *more: str, **changes: str
) -> "subprocess.CompletedProcess[str]":
    return run_script(
        "export_history.py",
        *("--account", account, "--out", out, *more),
        env=environment_of(database) | changes,
        seconds_max=SECONDS_MAX,
    )


def exported(database: Database, account: object, out: Path, *more: str) -> "Bundle":
    done = export(database, account, out, *more)
    assert done.returncode == 0, done.stderr
    return Bundle(out)


def verified(bundle: "Bundle | Path", *more: str) -> tuple[int, str]:
    """Exit code and everything that was said."""
    place = bundle.place if isinstance(bundle, Bundle) else bundle
    verify = (SCRIPTS / "verify_history.py", "--bundle", place, *more)
    done = run_bare(*verify, seconds_max=SECONDS_MAX)
    return done.returncode, done.stdout + done.stderr


def bytes_in(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


@contextmanager
def scripts_importable() -> Iterator[None]:
    """What stands beside the scripts, by the names they know it by."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield
    finally:
        sys.path.remove(str(SCRIPTS))


class Bundle:
    """One on disk, to be looked at or changed behind its back."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def copy(self, place: Path) -> "Bundle":
        shutil.copytree(self.place, place)
        return Bundle(place)

    @property
    def manifest(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads((self.place / "manifest.json").read_bytes())
        return said

    def put_manifest(self, manifest: dict[str, Any]) -> None:
        (self.place / "manifest.json").write_text(json.dumps(manifest))

    def lines(self, name: str) -> list[bytes]:
        return (self.place / name).read_bytes().splitlines(keepends=True)

    def objects(self, kind: str) -> list[dict[str, Any]]:
        """Of all files whose names begin so."""
        names = sorted(path.name for path in self.place.iterdir() if path.name.startswith(kind))
        return [json.loads(line) for name in names for line in self.lines(name)]

    def change(
        self, name: str, change: Callable[[list[bytes]], list[bytes]], *, forged: bool
    ) -> None:
        """`forged`: the manifest is made to say what the file is now."""
        (self.place / name).write_bytes(b"".join(change(self.lines(name))))
        if forged:
            self.forge()

    def forge(self) -> None:
        """Make the manifest fit the files and the lines of the events, as a forger would."""
        manifest = self.manifest
        for file in manifest["files"]:
            content = (self.place / file["name"]).read_bytes()
            file["bytes"], file["lines"] = len(content), content.count(b"\n")
            file["sha256"] = hashlib.sha256(content).hexdigest()
        self.put_manifest(manifest)

    def recount(self) -> None:
        """The manifest's counts, as they are in the files now."""
        manifest, runs = self.manifest, self.objects("runs")
        types = [event["type"] for event in self.objects("events")]
        manifest["counts"] |= {
            "runs": len(runs),
            "events": len(types),
            "begunBefore": sum(run["firstVersion"] > 1 for run in runs),
            "ended": sum(run["ended"] for run in runs),
            "erased": sum(run["erased"] for run in runs),
            "byType": {kind: types.count(kind) for kind in sorted(set(types))},
        }
        self.put_manifest(manifest)
        self.forge()
