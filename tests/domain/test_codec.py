"""Any content comes back as it was; what cannot be stored is refused by name before it is sent."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from runs_domain import events as e
from runs_domain.errors import AppendRefused, HistoryCorrupt
from runs_domain.ids import Position, Version
from runs_domain.storage import codec
from runs_domain.storage.codec import EVENT_BYTES_MAX, StoredRow
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.sealing import DataKey
from tests.support import builders
from tests.support.log_streams import SECRETS, Run

KEY = DataKey(bytes(32))
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


def requested(**changes: Any) -> Run:
    return Run(MemoryEventLog(SECRETS, SystemClock()), **changes)


@given(
    title=TEXT,
    parts=st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=3),
    metadata=st.none() | st.dictionaries(TEXT, JSON, max_size=4),
)
def test_any_content_is_read_as_it_was_written(
    title: str, parts: list[e.Json], metadata: e.Json | None
) -> None:
    run = requested()
    message = {"id": "m", "role": "user", "parts": parts}
    append = run.decided(run.request(title=title, messages=(message,), metadata=metadata))
    (piece,) = codec.encode(append, KEY)
    (written,) = codec.written(append, (piece,), AT, [Position(7)])
    state = piece.join(AT, append.prev)
    row = StoredRow(append.run_id, written.version, piece.tag, state, Position(7))

    assert codec.decode(row, codec.open_row(row), KEY) == written
    assert written.event == append.events[0]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["\ud800", nested(100_000), object()])
def test_what_is_not_json_is_refused_before_it_is_sent(value: Any) -> None:
    run = requested()
    append = run.decided(run.request(metadata={"value": value}))

    with pytest.raises(AppendRefused, match="not JSON"):
        codec.encode(append, KEY)


def test_an_event_has_a_largest_size() -> None:
    run = requested()
    big = builders.user_message("x" * EVENT_BYTES_MAX)
    append = run.decided(run.request(messages=(big,)))

    with pytest.raises(AppendRefused, match="bytes"):
        codec.encode(append, KEY)
    fits = replace(append, events=(replace(append.events[0], messages=()),))
    assert codec.encode(fits, KEY)


def test_bytes_that_are_no_text_are_corrupt_wherever_they_stand() -> None:
    run = requested()
    append = run.decided(run.request())
    (piece,) = codec.encode(append, KEY)
    state = piece.join(AT, append.prev)
    for place in (state.find(b"worker"), state.find(b"scripted/echo"), state.find(b"sealed") + 12):
        damaged = state[:place] + b"\x80" + state[place + 1 :]
        row = StoredRow(append.run_id, Version(1), piece.tag, damaged, Position(7))

        with pytest.raises(HistoryCorrupt):
            codec.decode(row, codec.open_row(row), KEY)
