"""`for finding in BundleCheck(place, manifest).findings()`: everything that is wrong with a bundle.

It is read once from end to end. Memory does not grow with it: there is a line of each kind of
file, and the state of one run.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from bundle_check.bundle import (
    CONTENT_LINE_BYTES_MAX,
    LINE_BYTES_MAX,
    RUN_LINE_BYTES_MAX,
)
from bundle_check.content import ContentBeside
from bundle_check.events import BadLineError, EventLine, read_event
from bundle_check.files import lines_of, tell_strangers
from bundle_check.manifest import COUNTS, FileFacts, ManifestFacts
from bundle_check.of_run import Bad, RunCheck
from bundle_check.runs import RunsBeside, read_runs

TYPES_MAX: Final = 1000
"""Event types that are counted; there are a dozen."""


Finding: TypeAlias = Bad | str
"""The first bad event of a run, or a sentence about the bundle as a whole."""


class BundleCheck:
    def __init__(self, place: Path, manifest: ManifestFacts) -> None:
        self.manifest = manifest
        self.counts = dict.fromkeys(COUNTS, 0)
        self._by_type: dict[str, int] = {}
        self._place = place
        self._told: deque[Finding] = deque()
        self._runs = RunsBeside(
            read_runs(lines_of(place, manifest.runs, RUN_LINE_BYTES_MAX, self._tell), self._tell),
            self._tell,
        )
        self._run: RunCheck | None = None

    def findings(self) -> Iterator[Finding]:
        tell_strangers(self._place, self.manifest.names, self._tell)
        for events, content in self.manifest.parts:
            for _ in self._part(events, content):
                yield from self._drained()
        self._end_run()
        self._runs.end()
        self._compare_counts()
        yield from self._drained()

    def _drained(self) -> Iterator[Finding]:
        while self._told:
            yield self._told.popleft()

    def _tell(self, sentence: str) -> None:
        self._told.append(sentence)

    def _part(self, events: FileFacts, content: FileFacts | None) -> Iterator[None]:
        """Gives control back after each line."""
        beside = None if content is None else self._beside(content)
        lines = lines_of(self._place, events, LINE_BYTES_MAX, self._tell)
        for number, line in enumerate(lines, start=1):
            try:
                event = read_event(line)
            except BadLineError as error:
                self._tell(f"{events.name}: line {number}: {error}")
            else:
                envelope = self._take(event).envelope
                if beside is not None and envelope is not None and "sealed" in envelope:
                    beside.take(f"{event.run_id}/{event.version}", envelope)
            yield
        if beside is not None:
            beside.end()
        yield

    def _beside(self, content: FileFacts) -> ContentBeside:
        lines = lines_of(self._place, content, CONTENT_LINE_BYTES_MAX, self._tell)
        return ContentBeside(
            content.name, lines, self._tell, all_erased=self.manifest.content_erased
        )

    def _take(self, event: EventLine) -> RunCheck:
        run = self._run
        if run is None or run.run_id != event.run_id:
            self._end_run()
            run = RunCheck(event, self._runs.line_of(event.run_id), self.manifest)
            self._run = run
        self._tell_bad(run.take(event))
        self.counts["events"] += 1
        self.counts["damaged"] += (run.envelope or {}).get("subject") != self.manifest.account
        if event.tag in self._by_type or len(self._by_type) < TYPES_MAX:
            self._by_type[event.tag] = self._by_type.get(event.tag, 0) + 1
        return run

    def _end_run(self) -> None:
        run = self._run
        if run is None:
            return
        self._tell_bad(run.end())
        self.counts["runs"] += 1
        self.counts["begunBefore"] += run.begun_before
        self.counts["ended"] += run.ended
        self.counts["erased"] += run.erased
        self._run = None

    def _tell_bad(self, bad: Bad | None) -> None:
        if bad is not None:
            self._told.append(bad)

    def _compare_counts(self) -> None:
        for name, count in self.counts.items():
            said = self.manifest.counts[name]
            if said != count:
                self._tell(f"the manifest counts {said} {name}, and there are {count}")
        if self.manifest.by_type != self._by_type:
            self._tell("the manifest counts other types of events than there are")
