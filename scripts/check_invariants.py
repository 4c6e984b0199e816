#!/usr/bin/env python3
"""Look for broken invariants in the whole log: `.venv/bin/python scripts/check_invariants.py`.

Reads one moment of the database (log, heads, keys, views; nothing is changed and nobody is in the
way) with the processes' RUNLEDGER_* settings. Exit 0: none broken, 1: some are, 2: could not look.
The numbers are those of docs/invariants.md.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from runs_domain.audit import LEAKS, Violation
from runs_domain.errors import RunledgerError
from runs_domain.ids import AccountId
from runs_domain.keys import secrets_of
from runs_domain.leaks import Leaks
from runs_domain.settings import Settings, load
from runs_domain.storage.audit_log import LogAudit
from runs_domain.storage.data_key_rows import PostgresDataKeys
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.job_bytes import job_bytes
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.snapshot import open_snapshot

NAME = "runledger check"
SHOWN = 5
BLOCK_BYTES = 1024 * 1024
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


def main() -> int:
    options = _parser().parse_args()
    tally = Tally(options.show)
    try:
        settings = load(os.environ)
        leaks = Leaks(settings.key_prefix, options.canary)
        seen = asyncio.run(_look(settings, options, leaks, tally))
    except (RunledgerError, ValueError, OSError) as error:
        reason = error if isinstance(error, RunledgerError) else f"{type(error).__name__}: {error}"
        print(f"check_invariants: could not look: {reason}", file=sys.stderr)
        return 2
    (_print_json if options.json else _print)(tally, seen)
    return 1 if any(tally.counts.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/check_invariants.py", description=__doc__)
    parser.add_argument("--account", type=UUID, help="its runs alone")
    parser.add_argument("--at-rest", action="store_true", help="no run is under way any more")
    parser.add_argument(
        "--canary", action="append", default=[], help="text that must not stand anywhere in clear"
    )
    parser.add_argument("--logs", type=Path, help="a directory of log files to search too")
    parser.add_argument("--show", type=int, default=SHOWN, help="violations to name of each kind")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


async def _look(
    settings: Settings, options: argparse.Namespace, leaks: Leaks, tally: Tally
) -> dict[str, int]:
    async with open_snapshot(settings.database_url, name=NAME) as snapshot:
        data_keys = DataKeys(PostgresDataKeys(snapshot), secrets_of(settings), SystemClock())
        account = None if options.account is None else AccountId(options.account)
        audit = LogAudit(snapshot, data_keys, leaks, account=account, at_rest=options.at_rest)
        async for violation in audit.violations():
            tally.add(violation)
    if leaks.canaries:
        async for block in job_bytes(settings.redis_url):
            for sentence in leaks.found_in(block):
                tally.add(Violation(rule=LEAKS, run_id=None, sentence=f"{sentence} in a job"))
    for sentence in () if options.logs is None else _in_logs(options.logs, leaks):
        tally.add(Violation(rule=LEAKS, run_id=None, sentence=sentence))
    return {"events": audit.seen.events, "runs": audit.seen.runs}


def _in_logs(place: Path, leaks: Leaks) -> Iterator[str]:
    """One sentence for each file and kind of leak, read a block at a time."""
    for path in sorted(file for file in place.rglob("*") if file.is_file()):
        found: set[str] = set()
        with path.open("rb") as file:
            tail = b""
            while block := file.read(BLOCK_BYTES):
                found.update(leaks.found_in(tail + block))
                tail = (tail + block)[-leaks.overlap_bytes :]
        yield from (f"{sentence} in {path.name}" for sentence in sorted(found))


def _print(tally: Tally, seen: dict[str, int]) -> None:
    print(f"{seen['runs']} runs, {seen['events']} events")
    for rule, sentence in SAYS.items():
        count = tally.counts[rule]
        print(f"{rule:>5}  {'ok' if count == 0 else f'{count} VIOLATIONS':<14}  {sentence}")
        for violation in tally.first[rule]:
            print(f"{'':7}run {violation.run_id}: {violation.sentence}")


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
    sys.exit(main())
