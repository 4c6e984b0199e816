"""Whether a bundle goes on exactly where an earlier one of the same account ends."""

from collections.abc import Iterator
from pathlib import Path

from bundle_check.bundle import RUN_LINE_BYTES_MAX
from bundle_check.files import Tell, lines_of
from bundle_check.manifest import ManifestFacts
from bundle_check.of_run import Bad
from bundle_check.runs import RunFacts, read_runs


class Continues:
    """`findings()`; then `joined` runs go on from the earlier bundle, and `unseen` began before
    both and are not in the earlier one, which proves nothing about them.

    The earlier bundle is taken as it is: it has a check of its own.
    """

    def __init__(
        self, place: Path, manifest: ManifestFacts, earlier: Path, before: ManifestFacts
    ) -> None:
        self.joined = self.unseen = 0
        self._here = (place, manifest)
        self._earlier = (earlier, before)

    def findings(self) -> Iterator[Bad | str]:
        told: list[str] = []
        (place, manifest), (earlier, before) = self._here, self._earlier
        if manifest.account != before.account:
            yield f"the earlier bundle is of another account, {before.account}"
            return
        if manifest.after != before.through:
            yield (
                f"the earlier bundle ends at position {before.through},"
                f" and this one begins after {manifest.after}"
            )
        # Both are in the order of the runs' requests, so that neither need be kept.
        theirs = _runs(earlier, before, told.append)
        other = next(theirs, None)
        for run in _runs(place, manifest, told.append):
            if run.first_version == 1:
                continue
            while other is not None and other.requested_position < run.requested_position:
                other = next(theirs, None)
            if other is None or other.run_id != run.run_id:
                self.unseen += 1
                if run.requested_position > before.after:
                    sentence = "is of a run that the earlier bundle should have, and has not"
                    yield _bad(run, sentence)
                continue
            self.joined += 1
            if (other.last_version + 1, other.last_hash) != (run.first_version, run.anchor):
                yield _bad(
                    run,
                    f"does not follow version {other.last_version},"
                    " with which the earlier bundle ends",
                )
        yield from told


def _bad(run: RunFacts, sentence: str) -> Bad:
    version = run.first_version
    return Bad("chain", f"version {version} {sentence}", run.run_id, version, None)


def _runs(place: Path, manifest: ManifestFacts, tell: Tell) -> Iterator[RunFacts]:
    return read_runs(lines_of(place, manifest.runs, RUN_LINE_BYTES_MAX, tell), tell)
