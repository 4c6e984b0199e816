"""`verify_history.py --bundle DIR`: says what is wrong with a bundle. Standard library only."""

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from bundle_check.bundle import MANIFEST, UNFINISHED, BadBundleError, open_plain
from bundle_check.check import BundleCheck, Finding
from bundle_check.continues import Continues
from bundle_check.manifest import ManifestFacts, read_manifest
from bundle_check.of_run import Bad

READER_LEFT = 141
INTERRUPTED = 130


class CannotLookError(Exception):
    """There is no bundle where the operator pointed."""


class Tally:
    def __init__(self, shown: int) -> None:
        self._shown = shown
        self.kinds: Counter[str] = Counter()
        self.bad: list[Bad] = []
        """The first ones, as many as are shown; of the sentences too."""
        self.sentences: list[str] = []
        self.sentence_count = 0

    def add(self, finding: Finding) -> None:
        if isinstance(finding, str):
            self.sentence_count += 1
            if len(self.sentences) < self._shown:
                self.sentences.append(finding)
            return
        self.kinds[finding.kind] += 1
        if len(self.bad) < self._shown:
            self.bad.append(finding)

    @property
    def bad_runs(self) -> int:
        return self.kinds.total() - self.kinds["unknown"]

    @property
    def code(self) -> int:
        if self.bad_runs or self.sentence_count:
            return 1
        return 2 if self.kinds["unknown"] else 0


def verify(options: argparse.Namespace) -> NoReturn:
    try:
        code = _verify(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = READER_LEFT
    except KeyboardInterrupt:
        print("verify_history: interrupted", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


def _verify(options: argparse.Namespace) -> int:
    tally = Tally(options.show)
    try:
        check, continues = _checks(options.bundle, options.after)
        for one in filter(None, (check, continues)):
            for finding in one.findings():
                tally.add(finding)
        seen = _seen(options.bundle, check, continues)
    except OSError as error:  # its directory was taken away meanwhile
        print(f"verify_history: could not look: {error.strerror}", file=sys.stderr)
        return 2
    except BadBundleError as error:
        tally.add(str(error))
        seen = {}
    except CannotLookError as error:
        print(f"verify_history: could not look: {error}", file=sys.stderr)
        return 2
    (_print_json if options.json else _print)(tally, seen)
    return tally.code


def _checks(place: Path, earlier: Path | None) -> tuple[BundleCheck, Continues | None]:
    before = None if earlier is None else _manifest_of(earlier)
    check = BundleCheck(place, _manifest_of(place))
    if earlier is None or before is None:
        return check, None
    return check, Continues(place, check.manifest, earlier, before)


def _manifest_of(place: Path) -> ManifestFacts:
    """Raises BadBundleError, CannotLookError."""
    try:
        return read_manifest(place)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CannotLookError(f"{place}: {error.strerror}") from None
    if (place / UNFINISHED).exists():
        raise CannotLookError(f"{place} is an export that has not finished: it has no {MANIFEST}")
    what = f"there is no {MANIFEST} in it" if place.is_dir() else "there is no such directory"
    raise CannotLookError(f"{place}: {what}")


def _seen(place: Path, check: BundleCheck, continues: Continues | None) -> dict[str, Any]:
    manifest = check.manifest
    with open_plain(place, MANIFEST) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    joined = {} if continues is None else {"joined": continues.joined, "unseen": continues.unseen}
    return {
        "account": manifest.account,
        "since": manifest.since,
        "until": manifest.until,
        **check.counts,
        **joined,
        "manifestSha256": digest,
    }


def _print(tally: Tally, seen: dict[str, Any]) -> None:
    if seen:
        print(
            f"{_many(seen['runs'], 'run')}, {_many(seen['events'], 'event')}"
            f" of account {seen['account']}"
        )
        print(f"from {seen['since'] or 'the beginning'} to {seen['until']}")
        print(f"manifest: SHA-256 {seen['manifestSha256']}")
    if seen.get("begunBefore"):
        print(f"{_many(seen['begunBefore'], 'run')} began before the span: their anchors are given")
    if "joined" in seen:
        goes = "goes" if seen["joined"] == 1 else "go"
        print(
            f"{_many(seen['joined'], 'run')} {goes} on from the earlier bundle;"
            f" {seen['unseen']:,} more began before this one and cannot be found there"
        )
    for sentence in tally.sentences:
        print(f"the bundle: {sentence}")
    if tally.sentence_count > len(tally.sentences):
        print(f"the bundle: and {tally.sentence_count - len(tally.sentences)} more")
    if tally.bad:
        print(f"{_many(tally.kinds.total(), 'run')} with a bad or unknown event, the first one:")
    for one in tally.bad:
        at = "" if one.position is None else f", position {one.position}"
        print(f"  run {one.run_id}, version {one.version}{at}: {one.kind}: {one.sentence}")
    if tally.kinds.total() > len(tally.bad):
        print(f"  and {_many(tally.kinds.total() - len(tally.bad), 'run')} more")
    if tally.code == 0:
        print("ok: every event is as it was written, as far as chains and the manifest can tell")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _print_json(tally: Tally, seen: dict[str, Any]) -> None:
    print(
        json.dumps(
            {
                "ok": tally.code == 0,
                **seen,
                "badRuns": tally.bad_runs,
                "unjudgedRuns": tally.kinds["unknown"],
                "kinds": dict(tally.kinds),
                "bundle": tally.sentences,
                "first": [{"run": fields.pop("run_id"), **fields} for fields in _fields(tally)],
            }
        )
    )


def _fields(tally: Tally) -> list[dict[str, Any]]:
    return [one._asdict() for one in tally.bad]
