"""Everything that is ever made of stored events, for each file of the corpus, as JSON.

usage: python -m tests.support.retold  (with the release to look at on PYTHONPATH)

Two releases that read the same bytes must say the same: `tests/domain/test_rehearsal.py`.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from runs_domain import events as e
from runs_domain.audit import StreamAudit
from runs_domain.audit_rules import stream_rules
from runs_domain.frames import encode, frames_of
from runs_domain.ledger import entries_after
from runs_domain.ports import Head, Recorded
from runs_domain.read_models import messages_after, summarize
from runs_domain.run import fold, is_live, is_open, status_of
from runs_domain.sandbox_rows import sandbox_after
from runs_domain.storage import codec, lean_codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.views import all_views
from tests.domain.test_history import HISTORY, KEY, stored
from tests.support.api import MINE, Api, account_key
from tests.support.corpus import KnownKeys

Told = dict[str, Any]


async def everything() -> dict[str, Told]:
    """By file: what the domain, the views, the audit, the stream and the API make of it."""
    return {file.stem: await told(file) for file in HISTORY}


async def told(file: Path) -> Told:
    rows = stored(file)
    whole = [codec.decode(row, codec.open_row(row), KEY) for row in rows]
    outline = [codec.decode(row, codec.open_row(row), None, outline=True) for row in rows]
    erased = [codec.decode(row, codec.open_row(row), None) for row in rows]
    for row, one, without in zip(rows, whole, outline, strict=True):
        lean = lean_codec.outline(row)
        assert lean == msgspec.structs.replace(without, hash="")
        assert lean_codec.with_content(row, lean, KEY) == msgspec.structs.replace(one, hash="")
    readings = {"whole": whole, "outline": outline, "erased": erased}
    return {
        **{name: of_stream(stream) for name, stream in readings.items()},
        "views": of_views(whole),
        "frames": [encode(frame).decode() for frame in frames_of(rows[0].run_id, events(whole))],
        "api": await of_api(rows, whole),
    }


def events(stream: Sequence[Recorded]) -> list[e.Event]:
    return [one.event for one in stream]


def of_stream(stream: Sequence[Recorded]) -> Told:
    state = fold(events(stream))
    audit = StreamAudit(stream[0].run_id, stream_rules(stream[0].run_id))
    return plain(
        {
            "state": state,
            "requested": state.requested,
            "summary": summarize(stream),
            "messages": messages_after(stream),
            "credits": entries_after(stream),
            "sandbox": sandbox_after(stream),
            "erased": [one.erased for one in stream],
            "types": [one.type for one in stream],
            "violations": [found.sentence for one in stream for found in audit.take(one)],
        }
    )


def of_views(stream: Sequence[Recorded]) -> Told:
    keys = {stream[0].subject: KEY}
    return plain(
        {
            view.name: [view.comparable(row, keys) for row in view.rows_of(stream, keys)]
            for view in all_views()
        }
    )


async def of_api(rows: Sequence[StoredRow], whole: Sequence[Recorded]) -> Told:
    api = Api()
    state, last = fold(events(whole)), whole[-1]
    requested = state.requested
    assert requested is not None
    api.log.data_keys = KnownKeys()  # type: ignore[misc]
    api.log._streams[last.run_id] = list(rows)
    api.log._heads[last.run_id] = Head(
        run_id=last.run_id,
        account_id=last.subject,
        chat_id=requested.chat_id,
        session_id=requested.session_id,
        version=last.version,
        status=status_of(state),
        live=is_live(state),
        open=is_open(state),
        head_hash=last.hash,
        requested_position=whole[0].position,
        updated_at=last.at,
    )
    api.keys.known["mine"] = account_key(last.subject)
    path = f"/api/chat/runs/{last.run_id}"
    answers = {}
    for target in (
        path,
        f"{path}?at=1",
        f"{path}/events",
        "/api/chat/runs",
        f"/api/chats/{requested.chat_id}/messages?partial=true",
    ):
        answer = await api.get(target, MINE)
        answers[target] = (answer.status, answer.json)
    return plain(answers)


def plain(value: Any) -> Any:
    """As JSON gives it back; sets in order."""
    return msgspec.json.decode(msgspec.json.encode(value, order="deterministic"))


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(everything())))
