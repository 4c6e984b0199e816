"""The lean way gives what the codec gives, but for the hash, and refuses what it refuses."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from runs_domain import events as e
from runs_domain.errors import HistoryCorrupt
from runs_domain.ids import Attempt, Position
from runs_domain.ports import Append, Recorded
from runs_domain.storage import codec, lean_codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.sealing import DataKey
from tests.domain.test_codec import AT, JSON, TEXT
from tests.support import builders
from tests.support.log_streams import SECRETS, Run

KEY = DataKey(bytes(32))
OTHER_KEY = DataKey(bytes([1] * 32))


def rows_of(run: Run, append: Append, key: DataKey | None) -> list[StoredRow]:
    pieces = codec.encode(append, key)
    first = append.expected_version
    written = codec.written(append, pieces, AT, [Position(first + i) for i in range(len(pieces))])
    run.stream = replace(run.stream, prev=written[-1].hash)
    return [
        StoredRow(one.run_id, one.version, one.type, piece.join(AT, one.prev), one.position)
        for one, piece in zip(written, pieces, strict=True)
    ]


def every_kind(text: str, metadata: e.Json | None, output: Any) -> list[StoredRow]:
    """Rows of every tag there is."""
    run = Run(MemoryEventLog(SECRETS, SystemClock()))
    state, events = run.stream.state, list[e.Event]()
    attempt = Attempt(1)
    call = builders.tool_step(builders.started()).parts
    persisted = e.MessagePersisted(message_id="m", first_part=0, parts=(*call, {"output": output}))
    events += [
        builders.decide(state, run.request(title=text, metadata=metadata))[0],
        e.Provisioned(sandbox=text, provider="none", state="named", working_directory="/w"),
        e.KeyMinted(key_id=run.key_id, secret_version=1, ttl_seconds=900, scopes=(text,)),
        e.Started(),
        e.Resumed(attempt=attempt, reason="lost"),
        persisted,
        e.MessagePersisted(message_id="m", first_part=0, usage=e.Usage(output_tokens=3)),
        e.ToolStarted(call_ids=(text,)),
        e.CancelRequested(by=text, why=text),
        e.Completed(finish_reason="stop", usage=e.Usage(input_tokens=1), cost="0.1"),
        e.Failed(code="internal", sentence=text, usage=e.Usage()),
        e.Cancelled(usage=e.Usage()),
        e.SandboxReleased(found=True, commit=text, pushed=True),
        e.KeyRevoked(key_id=run.key_id),
    ]
    first = run.append_of(events[0])
    append = replace(first, events=tuple(events))
    return rows_of(run, append, KEY)


def by_codec(row: StoredRow, key: DataKey | None, *, outline: bool) -> Recorded | str:
    try:
        return replace(codec.decode(row, codec.open_row(row), key, outline=outline), hash="")
    except HistoryCorrupt as error:
        return f"{type(error).__name__}: {error}"


def leanly(row: StoredRow, key: DataKey | None, *, outline: bool) -> Recorded | str:
    try:
        outlined = lean_codec.outline(row)
        return outlined if outline else lean_codec.with_content(row, outlined, key)
    except HistoryCorrupt as error:
        return f"{type(error).__name__}: {error}"


@given(text=TEXT, metadata=st.none() | st.dictionaries(TEXT, JSON, max_size=4), output=JSON)
def test_every_event_is_what_the_codec_makes_of_it(
    text: str, metadata: e.Json | None, output: Any
) -> None:
    rows = every_kind(text, metadata, output)
    assert {row.tag for row in rows} == set(e.TYPES)

    for row in rows:
        for key in (KEY, OTHER_KEY, None):
            for outline in (True, False):
                assert leanly(row, key, outline=outline) == by_codec(row, key, outline=outline)


ROWS = every_kind("text", {"a": 1}, {"stdout": "out"})


@given(
    row=st.sampled_from(ROWS),
    place=st.integers(0, 2000),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
@example(row=ROWS[0], place=0, byte=0, cut=True)
def test_a_damaged_event_is_refused_as_the_codec_refuses_it(
    row: StoredRow, place: int, byte: int, *, cut: bool
) -> None:
    """But for an outline, which does not look at the sealed content that it leaves out."""
    place %= len(row.state)
    rest = b"" if cut else bytes([byte]) + row.state[place + 1 :]
    damaged = replace(row, state=row.state[:place] + rest)

    assert leanly(damaged, KEY, outline=False) == by_codec(damaged, KEY, outline=False)
    expected = by_codec(damaged, None, outline=True)
    if isinstance(expected, Recorded) or place < row.state.find(b'"sealed"') or cut:
        assert leanly(damaged, None, outline=True) == expected


def test_an_event_of_another_place_or_tag_is_refused_as_the_codec_refuses_it() -> None:
    for row, other in zip(ROWS, reversed(ROWS), strict=True):
        for wrong in (
            replace(row, run_id=builders.RUN),
            replace(row, version=row.version + 1),
            replace(row, tag=other.tag),
            replace(row, tag="run.started.v9"),
            replace(row, tag="run.started.v9", state=row.state.replace(b".v1", b".v9", 1)),
        ):
            for outline in (True, False):
                assert leanly(wrong, KEY, outline=outline) == by_codec(wrong, KEY, outline=outline)


def whole(rows: list[StoredRow]) -> list[Recorded] | None:
    return lean_codec.outlines(
        rows[0].run_id,
        [row.position for row in rows],
        [row.tag for row in rows],
        [row.state for row in rows],
    )


def test_a_whole_stream_at_once_is_the_outline_of_each_event_or_none() -> None:
    assert [row.version for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert [asdict(one) for one in whole(ROWS) or ()] == [
        asdict(lean_codec.outline(row)) for row in ROWS
    ]
    odd = ROWS[3].state[:-1] + b',"position":7,"hash":"x","erased":true}'
    one, *_ = (whole([*ROWS[:3], replace(ROWS[3], state=odd), *ROWS[4:]]) or ())[3:]
    assert (one.position, one.hash, one.erased) == (ROWS[3].position, "", False)
    for place, row in enumerate(ROWS):
        for wrong in (
            replace(row, tag="run.started.v9"),
            replace(row, tag=ROWS[place - 2].tag),
            replace(row, state=row.state[:-1]),
            replace(
                row, state=row.state.replace(str(row.run_id).encode(), str(builders.RUN).encode())
            ),
        ):
            assert whole([*ROWS[:place], wrong, *ROWS[place + 1 :]]) is None
    assert whole([ROWS[1], ROWS[0], *ROWS[2:]]) is None
