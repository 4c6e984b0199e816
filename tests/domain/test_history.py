"""Stored events of every released version still replay (invariant 10).

A file of `history` is one stream, byte for byte as it was stored, under the data key below. Files
are added, never changed.
"""

from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from runs_domain.errors import HistoryCorrupt, UnknownEvent
from runs_domain.events import SEALED, TAGS, Started
from runs_domain.ids import Position, chain_start
from runs_domain.ports import Recorded
from runs_domain.run import fold, status_of
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.sealing import DataKey
from runs_domain.upcast import RULES, stored_tags, upcast

HISTORY = sorted(Path(__file__).with_name("history").glob("*.json"))
KEY = DataKey(bytes(range(32)))


def stored(file: Path) -> list[StoredRow]:
    rows = []
    for place, raw in enumerate(msgspec.json.decode(file.read_bytes(), type=list[msgspec.Raw])):
        state = bytes(raw)
        about = msgspec.json.decode(state)
        rows.append(
            StoredRow(
                run_id=UUID(about["runId"]),  # type: ignore[arg-type]
                version=about["version"],
                tag=about["type"],
                state=state,
                position=Position(place + 1),
            )
        )
    return rows


def replayed(file: Path) -> list[Recorded]:
    return [codec.decode(row, codec.open_row(row), KEY) for row in stored(file)]


def test_invariant_10_the_corpus_holds_every_tag_that_can_be_stored() -> None:
    found = {row.tag for file in HISTORY for row in stored(file)}

    assert found >= set(TAGS.values()) | set(RULES)


@pytest.mark.parametrize("file", HISTORY, ids=lambda file: file.stem)
def test_invariant_10_every_stored_stream_replays_to_the_end_its_name_tells(file: Path) -> None:
    state = fold([one.event for one in replayed(file)])

    assert status_of(state) == file.stem.partition("_")[0]
    has_ended = state.ending is not None
    assert state.sandbox_released == has_ended
    assert state.key_revoked == (has_ended and state.key is not None)
    assert not (has_ended and state.open_calls)


@pytest.mark.parametrize("file", HISTORY, ids=lambda file: file.stem)
def test_invariant_10_a_stored_stream_without_its_data_key_replays_to_the_same_end(
    file: Path,
) -> None:
    """What is erased is absent, and said to be; the rest is as it was."""
    rows = stored(file)
    for key_gone in (
        [codec.decode(row, codec.open_row(row), None) for row in rows],
        [codec.decode(row, codec.open_row(row), None, outline=True) for row in rows],
    ):
        state = fold([one.event for one in key_gone])
        whole = fold([one.event for one in replayed(file)])
        assert status_of(state) == status_of(whole)
        assert (state.usage, state.cost) == (whole.usage, whole.cost)
        assert state.version == whole.version
        assert not state.parts
    assert [one.erased for one in key_gone] == [False] * len(rows)


@pytest.mark.parametrize("file", HISTORY, ids=lambda file: file.stem)
def test_invariant_10_nothing_that_was_stored_is_lost_by_reading_it(file: Path) -> None:
    for row, one in zip(stored(file), replayed(file), strict=True):
        envelope = codec.open_row(row)
        clear = msgspec.json.decode(envelope.data)
        content = {}
        if envelope.sealed:
            content = msgspec.json.decode(codec._unsealed(row, envelope.sealed, KEY))
            assert set(content) <= set(SEALED[type(one.event)])
        tag, newest = upcast(row.tag, clear | content)

        assert tag == TAGS[type(one.event)]
        assert msgspec.json.decode(msgspec.json.encode(one.event)) == newest


@pytest.mark.parametrize("file", HISTORY, ids=lambda file: file.stem)
def test_invariant_10_the_hash_chain_of_every_stored_stream_holds(file: Path) -> None:
    prev = chain_start(stored(file)[0].run_id)
    for one in replayed(file):
        assert one.prev == prev
        prev = one.hash


def test_rules_chain_from_the_oldest_shape_to_the_newest() -> None:
    rules = {
        "run.begun.v1": ("run.begun.v2", lambda data: data | {"second": 2}),
        "run.begun.v2": ("run.started.v1", lambda data: data | {"third": 3}),
    }

    assert upcast("run.begun.v1", {"first": 1}, rules=rules) == (
        "run.started.v1",
        {"first": 1, "second": 2, "third": 3},
    )


def test_who_looks_by_tag_finds_the_old_ones_too() -> None:
    rules = {
        "run.begun.v1": ("run.begun.v2", dict),
        "run.begun.v2": ("run.started.v1", dict),
        "run.halted.v1": ("run.cancelled.v1", dict),
    }

    assert stored_tags({Started}, rules=rules) == ["run.started.v1", "run.begun.v1", "run.begun.v2"]


def test_a_tag_of_a_newer_release_is_refused_by_name() -> None:
    with pytest.raises(UnknownEvent, match=r"run\.started\.v9"):
        upcast("run.started.v9", {})


def test_rules_that_go_round_in_a_circle_end() -> None:
    rules = {"a": ("b", dict), "b": ("a", dict)}

    with pytest.raises(UnknownEvent, match="the rules for a go round in a circle"):
        upcast("a", {}, rules=rules)


def test_a_row_whose_bytes_are_of_another_event_is_refused() -> None:
    first, second, *_ = stored(HISTORY[0])

    with pytest.raises(HistoryCorrupt):
        codec.open_row(msgspec.structs.replace(first, state=second.state))


def test_content_moved_to_another_event_is_refused() -> None:
    rows = [row for row in stored(HISTORY[0]) if b'"sealed"' in row.state]
    ours, theirs = codec.open_row(rows[0]), codec.open_row(rows[1])

    with pytest.raises(HistoryCorrupt, match="unsealed"):
        codec.decode(rows[0], msgspec.structs.replace(ours, sealed=theirs.sealed), KEY)


@pytest.mark.parametrize("sealed", ["%%%", "AAAA", "QUJD" * 20])
def test_damaged_content_is_refused(sealed: str) -> None:
    row = next(row for row in stored(HISTORY[0]) if b'"sealed"' in row.state)

    with pytest.raises(HistoryCorrupt):
        codec.decode(row, msgspec.structs.replace(codec.open_row(row), sealed=sealed), KEY)
