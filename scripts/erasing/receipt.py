"""What was erased, what stays, and whether the history is as it was: for people and as JSON."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from operating.counted import many

from runs_domain.storage.erasure import Heads, Record

CLEARED = {
    "keys_revoked": "API keys revoked",
    "memberships_ended": "memberships ended",
    "names_cleared": "names cleared",
    "runs_cancelled": "live runs cancelled",
    "message_rows": "rows of message views deleted",
    "chunk_keys": "keys of live streams deleted in Redis",
    "export_bundles": "exports removed",
    "sandboxes": "sandboxes removed",
}
"""Columns of `erasures`, and how people are told."""


class Receipt(msgspec.Struct):
    account: UUID
    record: Record
    before: Heads | None
    """None: the data key stands."""
    after: Heads | None
    left: list[str]
    """What this erasure should have cleared and has not: a sentence each."""
    not_covered: Sequence[str]
    """What no erasure by this script reaches."""

    @property
    def untouched(self) -> bool | None:
        """Whether the history is as it was; None: nothing to compare yet."""
        if self.before is None or self.after is None:
            return None
        return self.before == self.after

    @property
    def complete(self) -> bool:
        return self.record.finished_at is not None and self.untouched is True and not self.left


def as_json(receipt: Receipt) -> str:
    record = receipt.record
    kept: dict[str, Any] = {"untouched": receipt.untouched}
    if receipt.before is not None:
        kept |= msgspec.to_builtins(receipt.before)
        del kept["digest"]
        kept["headsDigestBefore"] = receipt.before.digest
    if receipt.after is not None:
        kept["headsDigestAfter"] = receipt.after.digest
    said = {
        "account": str(receipt.account),
        "kind": record.kind,
        "complete": receipt.complete,
        "askedBy": record.asked_by,
        "askedAt": _time(record.asked_at),
        "keyDestroyedAt": _time(record.key_destroyed_at),
        "finishedAt": _time(record.finished_at),
        "kept": kept,
        "cleared": {_camel(name): getattr(record, name) for name in CLEARED},
        "left": receipt.left,
        "notCovered": list(receipt.not_covered),
    }
    return json.dumps(said)


def as_text(receipt: Receipt) -> str:
    record = receipt.record
    lines = [
        f"account:       {receipt.account} ({record.kind})",
        f"erased:        {_erased(receipt)}",
        f"asked:         {_time(record.asked_at)} by {record.asked_by}",
        f"key destroyed: {_time(record.key_destroyed_at) or 'NO: the content can still be read'}",
        f"finished:      {_time(record.finished_at) or 'no: run the same command again'}",
    ]
    if receipt.before is not None:
        before = receipt.before
        lines += [
            f"stays:         {many(before.runs, 'run')}, {many(before.events, 'event')}",
            f"sealed:        {before.sealed_events} of the events had content: nobody can open it",
            f"history:       {_history(receipt)}",
            f"heads before:  {before.digest} at position {before.position}",
        ]
    if receipt.after is not None:
        lines.append(f"heads after:   {receipt.after.digest}")
    lines += ["cleared:"]
    lines += [f"  {getattr(record, name):>7} {what}" for name, what in CLEARED.items()]
    lines += ["NOT CLEARED:", *(f"  - {one}" for one in receipt.left)] if receipt.left else []
    lines += ["not covered:", *(f"  - {one}" for one in receipt.not_covered)]
    return "\n".join(lines)


def _erased(receipt: Receipt) -> str:
    if receipt.complete:
        return "yes"
    return "NOT COMPLETELY" if receipt.record.key_destroyed_at else "NO"


def _history(receipt: Receipt) -> str:
    match receipt.untouched:
        case None:
            return "not compared"
        case True:
            return "untouched: the heads of all chains are as they were"
        case False:
            return "NOT AS IT WAS: run scripts/verify_history.py"


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat().replace("+00:00", "Z")
