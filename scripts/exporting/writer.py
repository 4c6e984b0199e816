"""Writes a bundle so that it can be killed at any point and gone on with: parts are written to
their ends, then what is known of them is, in one step. In memory there is a page of lines.
"""

from bundle_check.bundle import (
    CONTENT,
    EVENTS,
    PART_BYTES_MAX,
    PART_EVENTS_MAX,
    PARTS_MAX,
    RUNS,
    is_at_the_end,
    part_name,
)
from exporting.files import CannotExport, Growing
from exporting.lines import RunLine, Said, content_line, event_line, run_line, said_by
from exporting.place import Place
from exporting.state import Manifest, Unfinished, manifest_of

from runs_domain.ids import Version
from runs_domain.ports import BEFORE_FIRST
from runs_domain.storage.codec import StoredRow, hash_of
from runs_domain.storage.export_reads import RunAt
from runs_domain.storage.sealing import DataKey


class BundleWriter:
    """Takes the events in their order. Raises CannotExport, and OSError naming the file."""

    def __init__(self, place: Place, state: Unfinished) -> None:
        """`state` is a new one, or what `Place.found` gave: then it goes on behind `at`."""
        self.events = state.counts.events
        self._place = place
        self._state = state
        self._header = state.header
        self._runs = Growing(
            place.path / RUNS, keep_bytes=state.runs_bytes, keep_lines=state.runs_lines
        )
        self._events: Growing | None = None
        self._content: Growing | None = None

    @property
    def at(self) -> tuple[RunAt | None, Version]:
        """The run and the version of the last event that was taken."""
        run = self._state.run
        if run is None:
            return None, BEFORE_FIRST
        return RunAt(run.requested_position, run.run_id), run.last_version

    def add(self, at: RunAt, row: StoredRow, key: DataKey | None) -> None:
        """`key` is the account's, for the readable content beside; None if it has none."""
        said, digest = said_by(row.state), hash_of(row.state)
        line = event_line(row, said, self._header.account, digest)
        self._part_for(len(line)).add(line)
        if self._content is not None:
            content = content_line(row, said, key)
            if content is not None:
                self._content.add(content)
        self._count(at, row, said, digest)

    def finish(self) -> Manifest:
        self._cut()
        self._end_run()
        manifest = manifest_of(self._state, self._runs.settle())
        self._place.finish(manifest)
        return manifest

    def close(self) -> None:
        """What is not in a whole part is given up."""
        for file in (self._runs, self._events, self._content):
            if file is not None:
                file.close()

    # ------------------------------------------------------------------------------ parts

    def _part_for(self, size: int) -> Growing:
        events = self._events
        if events is not None and (
            events.bytes + size > PART_BYTES_MAX or events.lines == PART_EVENTS_MAX
        ):
            self._cut()
        if self._events is None:
            number = 1 + sum(file.name.startswith(EVENTS) for file in self._state.files)
            if number > PARTS_MAX:
                raise CannotExport(f"more than {PARTS_MAX} parts: export shorter spans of time")
            self._events = Growing(self._place.path / part_name(EVENTS, number))
            if self._header.asked.unsealed:
                self._content = Growing(self._place.path / part_name(CONTENT, number))
        return self._events

    def _cut(self) -> None:
        """End the part: from here on an end of this process takes nothing of it away."""
        parts = [file for file in (self._events, self._content) if file is not None]
        self._events = self._content = None
        try:
            self._state.files += [file.settle() for file in parts]
        finally:
            for file in parts:
                file.close()
        runs = self._runs.settle()
        self._state.runs_bytes, self._state.runs_lines = runs.bytes, runs.lines
        self._place.keep(self._state)

    # ------------------------------------------------------------------------------ totals

    def _count(self, at: RunAt, row: StoredRow, said: Said, digest: str) -> None:
        run, counts = self._state.run, self._state.counts
        if run is None or run.run_id != row.run_id:
            self._end_run()
            run = self._state.run = RunLine(
                run_id=row.run_id,
                requested_position=at.requested_position,
                first_version=row.version,
                anchor=said.prev,
            )
        run.last_version, run.last_hash = row.version, digest
        run.events += 1
        run.ended = is_at_the_end(row.tag)
        run.erased |= said.sealed == "" or (said.sealed is not None and self._header.content_erased)
        counts.events += 1
        counts.damaged += said.subject != str(self._header.account)
        counts.by_type[row.tag] = counts.by_type.get(row.tag, 0) + 1
        self.events = counts.events

    def _end_run(self) -> None:
        run, counts = self._state.run, self._state.counts
        if run is None:
            return
        self._runs.add(run_line(run))
        counts.runs += 1
        counts.begun_before += run.first_version > 1
        counts.ended += run.ended
        counts.erased += run.erased
        self._state.run = None
