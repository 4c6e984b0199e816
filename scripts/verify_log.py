"""`verify_history.py` on the log itself: reads one moment of it, in several processes."""

from operating.script import leave_with, told  # isort: split

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import NoReturn
from uuid import UUID

from operating.counted import many
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from runs_domain.errors import RunledgerError
from runs_domain.ids import AccountId
from runs_domain.proof import Fault
from runs_domain.settings import BadSettings, Secret
from runs_domain.storage import history_parts as parts
from runs_domain.storage.history_check import Absent, Misplaced, Note
from runs_domain.storage.history_check import Progress as Checked
from runs_domain.storage.history_workers import notes
from runs_domain.storage.snapshot import Snapshot, open_snapshot
from runs_domain.urls import is_postgres

NAME = "runledger verify history"
URL_SETTING = "RUNLEDGER_DATABASE_URL"
HEADING = "verify_history: could not look"


class NothingThere(RunledgerError):
    """There was nothing to look at where the operator pointed."""


class Tally:
    def __init__(self, shown: int) -> None:
        self._shown = shown
        self.events = self.runs = self.bytes = 0
        self.kinds: Counter[str] = Counter()
        self.faults: list[Fault] = []
        """The first ones by run, as many as are shown."""
        self.unknown: list[Fault] = []
        self.misplaced: list[Misplaced] = []
        """The first ones by position, as many as are shown."""
        self.misplaced_count = 0
        self.keeps_places_apart = True
        self.absent: list[UUID] = []
        self.seconds = 0.0

    def add(self, note: Note) -> None:
        if isinstance(note, Checked):
            self.events += note.events
            self.runs += note.runs
            self.bytes += note.bytes
        elif isinstance(note, Absent):
            self.absent.append(note.run_id)
        elif isinstance(note, Misplaced):
            self.misplaced_count += 1
            self.misplaced.append(note)
            if len(self.misplaced) > self._shown:
                self.misplaced.sort()
                self.misplaced.pop()
        else:
            self.kinds[note.kind] += 1
            kept = self.unknown if note.kind == "unknown" else self.faults
            kept.append(note)
            if len(kept) > self._shown:
                kept.sort(key=lambda one: (one.run_id, one.version))
                kept.pop()

    @property
    def bad_runs(self) -> int:
        return self.kinds.total() - self.kinds["unknown"]

    @property
    def code(self) -> int:
        if self.bad_runs or self.misplaced_count:
            return 1
        return 2 if self.kinds["unknown"] or self.absent else 0


def verify(options: argparse.Namespace) -> NoReturn:
    # 2 for all that fails: 1 says that something is wrong with the log.
    leave_with(lambda: told(HEADING, URL_SETTING, NAME, lambda: _verify(options), failed=2))


def _verify(options: argparse.Namespace) -> int:
    tally = Tally(options.show)
    asyncio.run(_look(options, tally))
    (_print_json if options.json else _print)(tally)
    for run_id in tally.absent:
        print(f"verify_history: there is no run {run_id}", file=sys.stderr)
    return tally.code


async def _look(options: argparse.Namespace, tally: Tally) -> None:
    url = _database_url()
    begun = time.monotonic()
    async with open_snapshot(url, name=NAME) as snapshot:
        plan = await _plan(snapshot, options)
        tally.keeps_places_apart = plan.keeps_places_apart
        # Nothing else runs in this loop: it keeps the moment that the processes share.
        with _bar(plan.events) as advance:
            for note in notes(url, NAME, plan, options.workers):
                tally.add(note)
                if isinstance(note, Checked):
                    advance(note.events)
    tally.seconds = time.monotonic() - begun


def _database_url() -> Secret:
    """All that is needed: an auditor has no server secret. Raises BadSettings."""
    url = os.environ.get(URL_SETTING, "").strip()
    if not url:
        raise BadSettings(f"{URL_SETTING} is not set")
    if not is_postgres(url):
        raise BadSettings(
            f"{URL_SETTING} must be like postgresql://user:password@host:5432/database"
        )
    return Secret(url)


async def _plan(snapshot: Snapshot, options: argparse.Namespace) -> parts.Plan:
    if options.all:
        return await parts.all_runs(snapshot, options.workers)
    if options.account is None:
        return await parts.named_runs(snapshot, options.runs)
    plan = await parts.runs_of_account(snapshot, AccountId(options.account))
    if not plan.parts:
        raise NothingThere(f"no run of that account: {options.account}")
    return plan


@contextmanager
def _bar(events: int | None) -> Iterator[Callable[[int], None]]:
    """On a terminal; `events` is about how many there are, None if nobody knows."""
    columns = (
        TextColumn("{task.fields[said]}"),
        BarColumn(),
        TextColumn("{task.fields[rate]} a second"),
        TimeRemainingColumn(),
    )
    of_all = "" if events is None else f" of about {events:,}"
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=events, said="0 events", rate="0")

        def advance(count: int) -> None:
            progress.advance(task, count)
            shown = progress.tasks[0]
            said = f"{shown.completed:,.0f}{of_all} events"
            progress.update(task, said=said, rate=f"{shown.speed or 0:,.0f}")

        yield advance


def _print(tally: Tally) -> None:
    rate = tally.events / max(tally.seconds, 1e-9)
    print(
        f"{many(tally.runs, 'run')}, {many(tally.events, 'event')}"
        f" in {tally.seconds:.1f} s: {rate:,.0f} a second"
    )
    if not tally.keeps_places_apart:
        print("note: no index of the database keeps positions apart; each was looked at")
    if tally.misplaced_count:
        print(f"{many(tally.misplaced_count, 'event')} out of place:")
        for place, sentence in sorted(tally.misplaced):
            print(f"  position {place}: {sentence}")
        _more(tally.misplaced_count - len(tally.misplaced), "event")
    _list(tally.faults, tally.bad_runs, "not as it was written", "not as they were written")
    newer = "of a newer release in part, which cannot be judged here"
    _list(tally.unknown, tally.kinds["unknown"], newer, newer)
    if tally.code == 0:
        print("ok: every history is as it was written, as far as chains and heads can tell")


def _list(faults: list[Fault], count: int, one: str, more: str) -> None:
    if not count:
        return
    print(f"{many(count, 'run')} {'is ' + one if count == 1 else 'are ' + more}:")
    for fault in sorted(faults, key=lambda fault: (fault.run_id, fault.version)):
        at = "" if fault.position is None else f", position {fault.position}"
        print(f"  run {fault.run_id}, version {fault.version}{at}: {fault.kind}: {fault.sentence}")
    _more(count - len(faults), "run")


def _more(count: int, what: str) -> None:
    if count:
        print(f"  and {many(count, what)} more")


def _print_json(tally: Tally) -> None:
    first = sorted((*tally.faults, *tally.unknown), key=lambda one: (one.run_id, one.version))
    print(
        json.dumps(
            {
                "ok": tally.code == 0,
                "runs": tally.runs,
                "events": tally.events,
                "bytes": tally.bytes,
                "seconds": round(tally.seconds, 3),
                "eventsPerSecond": round(tally.events / max(tally.seconds, 1e-9)),
                "badRuns": tally.bad_runs,
                "unjudgedRuns": tally.kinds["unknown"],
                "kinds": dict(tally.kinds),
                "misplacedEvents": tally.misplaced_count,
                "misplaced": [one._asdict() for one in sorted(tally.misplaced)],
                "keepsPlacesApart": tally.keeps_places_apart,
                "absent": [str(run_id) for run_id in tally.absent],
                "first": [{"run": one.pop("run_id"), **one} for one in map(asdict, first)],
            }
        )
    )
