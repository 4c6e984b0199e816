#!/usr/bin/env python3
"""Look for broken invariants in the whole log: `.venv/bin/python scripts/check_invariants.py`.

Reads one moment of the database (log, heads, keys, views; nothing is changed and nobody is in the
way) with the processes' RUNLEDGER_* settings. Exit 0: none broken, 1: some are, 2: could not look,
or not at everything. The numbers are those of docs/invariants.md.
"""

from operating.script import leave_with, postgres_away, redis_away  # isort: split

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from operating.counted import many
from operating.log_search import LogSearch

from runs_domain.audit import LEAKS, Violation
from runs_domain.errors import QueueUnavailable, RunledgerError, StoreUnavailable
from runs_domain.ids import AccountId
from runs_domain.keys import secrets_of
from runs_domain.leaks import Leaks
from runs_domain.settings import Settings, load
from runs_domain.storage.audit_log import LogAudit
from runs_domain.storage.data_key_rows import PostgresDataKeys
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.job_bytes import job_bytes
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.snapshot import PAGE_SECONDS_MAX, open_snapshot

NAME = "runledger check"
SHOWN = 5
VIEWS = ("runs", "messages")
"""That are compared with the log."""
SAYS = {
    "chain": "versions without a hole, each event bound to the one before",
    "1": "one end, a letter if it was given up; at rest every run has ended and let its sandbox go",
    "2": "no step, tool call or result twice; charged what the steps used",
    "3": "no event of a lower attempt; one attempt is one worker's",
    "4": "after the end the key is revoked, the sandbox released, and nothing else",
    "5": "keys of ended runs are dead, those of live ones are not",
    "6": "no key and no canary in clear",
    "7": "the stream is legal and tells the persisted message",
    "8": "heads and views equal the fold of the log",
    "10": "every stored event replays",
}
"""What each line says when nothing is wrong."""


class Tally:
    def __init__(self, shown: int) -> None:
        self._shown = shown
        self.counts = dict.fromkeys(SAYS, 0)
        self.first: dict[str, list[Violation]] = {rule: [] for rule in SAYS}

    def add(self, violation: Violation) -> None:
        self.counts[violation.rule] += 1
        if len(self.first[violation.rule]) < self._shown:
            self.first[violation.rule].append(violation)


class NothingSeenError(Exception):
    """There was nothing to look at where the operator pointed."""


def main() -> int:
    options = _parser().parse_args()
    tally = Tally(options.show)
    try:
        settings = load(os.environ)
        leaks = Leaks(settings.key_prefix, options.canary)
        logs = LogSearch(leaks)
        seen = asyncio.run(_look(settings, options, leaks, tally))
        _look_at_logs(options.logs, logs, tally)
    except (RunledgerError, NothingSeenError, ValueError, OSError) as error:
        print(f"check_invariants: could not look: {_reason(error)}", file=sys.stderr)
        return 2
    if options.logs is not None:
        seen["logFiles"] = logs.files
    (_print_json if options.json else _print)(tally, seen)
    for sentence in logs.not_searched:
        print(f"check_invariants: not searched: {sentence}", file=sys.stderr)
    if any(tally.counts.values()):
        return 1
    return 2 if logs.not_searched else 0


def _reason(error: Exception) -> str:
    if isinstance(error, StoreUnavailable):
        return postgres_away(error, setting="RUNLEDGER_DATABASE_URL", name=NAME)
    if isinstance(error, QueueUnavailable):
        return redis_away(error)
    if isinstance(error, RunledgerError | NothingSeenError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/check_invariants.py", description=__doc__)
    parser.add_argument("--account", type=UUID, help="its runs alone")
    parser.add_argument("--at-rest", action="store_true", help="no run is under way any more")
    parser.add_argument(
        "--canary", action="append", default=[], help="text that must not stand anywhere in clear"
    )
    parser.add_argument(
        "--logs", type=_place, help="a log file, or a directory of them, to search too (also .gz)"
    )
    parser.add_argument(
        "--show", type=_count, default=SHOWN, help="violations to name of each kind"
    )
    parser.add_argument(
        "--query-seconds",
        type=_seconds,
        default=PAGE_SECONDS_MAX,
        help="how long one query may take before the database counts as away"
        " (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _place(given: str) -> Path:
    place = Path(given)
    if not place.exists():
        raise argparse.ArgumentTypeError(f"there is no {place}")
    return place


def _count(given: str) -> int:
    if not given.isascii() or not given.isdecimal():
        raise argparse.ArgumentTypeError("it takes 0 or more")
    return int(given)


def _seconds(given: str) -> float:
    seconds = float(given)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("it takes more than 0 seconds")
    return seconds


async def _look(
    settings: Settings, options: argparse.Namespace, leaks: Leaks, tally: Tally
) -> dict[str, int]:
    seconds = options.query_seconds
    async with open_snapshot(
        settings.database_url, name=NAME, page_seconds_max=seconds, views=VIEWS
    ) as snapshot:
        data_keys = DataKeys(PostgresDataKeys(snapshot), secrets_of(settings), SystemClock())
        account = None if options.account is None else AccountId(options.account)
        audit = LogAudit(snapshot, data_keys, leaks, account=account, at_rest=options.at_rest)
        of_runs = 0
        async for violation in audit.violations():
            tally.add(violation)
            of_runs += violation.run_id is not None
    if account is not None and not audit.seen.runs and not of_runs:
        raise NothingSeenError(f"no run of that account: {account}")
    if leaks.canaries:
        async for block in job_bytes(settings.redis_url):
            for sentence in leaks.found_in(block):
                text = f"jobs: {sentence} in a job"
                tally.add(Violation(rule=LEAKS, run_id=None, sentence=text))
    return {"runs": audit.seen.runs, "events": audit.seen.events}


def _look_at_logs(place: Path | None, logs: LogSearch, tally: Tally) -> None:
    if place is None:
        return
    for sentence in logs.found_in(place):
        tally.add(Violation(rule=LEAKS, run_id=None, sentence=f"logs: {sentence}"))
    if not logs.files and not logs.not_searched:
        raise NothingSeenError(f"no file in {place}")


def _print(tally: Tally, seen: dict[str, int]) -> None:
    logs = f", {many(seen['logFiles'], 'log file')} searched" if "logFiles" in seen else ""
    print(f"{many(seen['runs'], 'run')}, {many(seen['events'], 'event')}{logs}")
    for rule, sentence in SAYS.items():
        count = tally.counts[rule]
        print(f"{rule:>5}  {many(count, 'VIOLATION') if count else 'ok':<14}  {sentence}")
        for violation in tally.first[rule]:
            whose = "" if violation.run_id is None else f"run {violation.run_id}: "
            print(f"{'':7}{whose}{violation.sentence}")


def _print_json(tally: Tally, seen: dict[str, int]) -> None:
    invariants: list[dict[str, Any]] = [
        {
            "invariant": rule,
            "says": sentence,
            "violations": tally.counts[rule],
            "first": [
                {"run": None if one.run_id is None else str(one.run_id), "sentence": one.sentence}
                for one in tally.first[rule]
            ],
        }
        for rule, sentence in SAYS.items()
    ]
    print(json.dumps({**seen, "ok": not any(tally.counts.values()), "invariants": invariants}))


if __name__ == "__main__":
    leave_with(main)
