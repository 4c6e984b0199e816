"""What runs on the copies of `next_release`: a run in the third shape, its writing and reading.

usage: python -m tests.support.third_shape [store | read]
"""

import asyncio
import sys
from typing import Any
from uuid import UUID

import msgspec

from runs_domain.events import SEALED, Requested
from runs_domain.ids import Position, RunId
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.identity import uuid7
from tests.domain.test_history import KEY
from tests.support.api import MINE, Api
from tests.support.corpus import KnownKeys

RUNS = "/api/chat/runs"
BODY: dict[str, Any] = {"prompt": "Say hello", "metadata": {"a": 1}, "artistId": str(uuid7())}


def row_of(state: bytes) -> StoredRow:
    about = msgspec.json.decode(state)
    return StoredRow(
        RunId(UUID(about["runId"])), about["version"], about["type"], state, Position(1)
    )


def unsealed(row: StoredRow) -> dict[str, Any]:
    envelope = codec.open_row(row)
    assert envelope.sealed is not None
    content: dict[str, Any] = msgspec.json.decode(codec._unsealed(row, envelope.sealed, KEY))
    return content


async def started(api: Api) -> StoredRow:
    """A run's request as the API stores it."""
    api.log.data_keys = KnownKeys()  # type: ignore[misc]
    answer = await api.post(RUNS, BODY, MINE | {"idempotency-key": "one"})
    assert answer.status == 202, answer.body
    (row,) = api.log.stored(RunId(UUID(answer.json["runId"])))
    return row


async def every_door() -> dict[str, Any]:
    api = Api()
    row = await started(api)
    again = MINE | {"idempotency-key": "one"}
    answers = [
        await api.post(RUNS, BODY, MINE | {"idempotency-key": "two"}),
        await api.post(RUNS, BODY, again),
        await api.post(RUNS, BODY | {"prompt": "Something else"}, again),
        await api.get(f"{RUNS}/{row.run_id}"),
        await api.get(f"{RUNS}/{row.run_id}/events"),
    ]
    organization = str(uuid7())
    second = codec.decode(*_second(row, organization), KEY).event
    assert isinstance(second, Requested)
    return {
        "tag": row.tag,
        "clear": msgspec.json.decode(codec.open_row(row).data),
        "sealed": unsealed(row),
        "statuses": [answer.status for answer in answers],
        "shown": answers[-1].json["data"][0]["data"],
        "organization": organization,
        "second": {
            "organization": str(second.organization),  # type: ignore[attr-defined]
            "runTitle": second.run_title,  # type: ignore[attr-defined]
        },
    }


def _second(row: StoredRow, organization: str) -> tuple[StoredRow, codec.Envelope]:
    """The same request as the release between stored it."""
    about = msgspec.json.decode(row.state)
    content = unsealed(row) | {"runTitle": "A title"}
    sealed = KEY.seal(msgspec.json.encode(content), row.run_id, row.version)
    about |= {"type": "run.requested.v2", "sealed": msgspec.to_builtins(sealed)}
    about["data"]["organizationId"] = organization
    second = row_of(msgspec.json.encode(about))
    return second, codec.open_row(second)


async def store() -> dict[str, Any]:
    row = await started(Api())
    assert "artist" in SEALED[Requested]
    return {"state": row.state.decode(), "artist": BODY["artistId"]}


def read() -> dict[str, Any]:
    row = row_of(sys.stdin.buffer.read())
    one = codec.decode(row, codec.open_row(row), KEY)
    assert one.type == "run.requested.v3"
    assert isinstance(one.event, Requested)
    return {
        "title": one.event.title,
        "artistId": one.event.artist_id,
        "digests": len(one.event.request_digest) == 64,
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["store"]:
            said = asyncio.run(store())
        case ["read"]:
            said = read()
        case _:
            said = asyncio.run(every_door())
    sys.stdout.buffer.write(msgspec.json.encode(said))
