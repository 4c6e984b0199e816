"""`codec.decode` for whoever folds many events: equal but for `hash`, which stays empty.

An outline takes one pass over the stored bytes, and content is opened on top of it where somebody
asks. Whatever does not fit goes the slow way, which says why.
"""

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec.structs import asdict, force_setattr
from typing_extensions import override

from runs_domain.errors import HistoryCorrupt
from runs_domain.events import SEALED, TYPES, Event, Struct
from runs_domain.ids import Position, RunId
from runs_domain.ports import Recorded
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.sealing import DataKey

E = TypeVar("E", bound=Event)
_NOT_STORED: Final = ("position", "hash", "erased")


class _AtOnce(
    Recorded,
    Generic[E],
    frozen=True,
    eq=False,
    kw_only=True,
    rename={"event": "data"} | {name: f"({name})" for name in _NOT_STORED},
):
    """A Recorded that the stored bytes are decoded into. No JSON name that anybody writes
    stands for what they do not hold.
    """

    event: E
    position: Position = Position(0)
    hash: str = ""
    erased: bool = False

    @override
    def __eq__(self, other: object) -> bool:
        """Structs of two types never are, but nobody need know that there are two."""
        return isinstance(other, Recorded) and asdict(self) == asdict(other)

    __hash__ = Recorded.__hash__


class _Content(Struct, frozen=True):
    data: msgspec.Raw
    sealed: bytes | None = None
    """msgspec undoes the base64."""


_OUTLINES: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    tag: msgspec.json.Decoder(_AtOnce[kind])  # type: ignore[valid-type]
    for tag, kind in TYPES.items()
}
_EVENTS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    tag: msgspec.json.Decoder(kind) for tag, kind in TYPES.items() if kind in SEALED
}
_CONTENTS: Final = msgspec.json.Decoder(_Content)


def outline(row: StoredRow) -> Recorded:
    """The event with its sealed fields left at their defaults. Raises HistoryCorrupt,
    UnknownEvent.
    """
    decoder = _OUTLINES.get(row.tag)
    if decoder is None:
        return _slowly(row, None, outline=True)
    try:
        one: Recorded = decoder.decode(row.state)
    except codec.UNREADABLE:
        return _slowly(row, None, outline=True)
    if (
        one.run_id.int != row.run_id.int  # ten times as fast as comparing UUIDs
        or one.version != row.version
        or one.type != row.tag
    ):
        return _slowly(row, None, outline=True)
    force_setattr(one, "position", row.position)  # nobody has seen it yet
    # The row's own, which are equal: a batch in memory is smaller without a copy of each.
    force_setattr(one, "run_id", row.run_id)
    force_setattr(one, "type", row.tag)
    return one


def outlines(
    run_id: RunId,
    positions: Sequence[Position],
    tags: Sequence[str],
    states: Sequence[bytes],
) -> list[Recorded] | None:
    """Each outline of a whole stream, whose versions have no hole; None if one of them does not
    fit, and `outline` says why.
    """
    number = run_id.int
    made: list[Recorded] = []
    try:
        for version, (position, tag, state) in enumerate(
            zip(positions, tags, states, strict=True), start=1
        ):
            one: Recorded = _OUTLINES[tag].decode(state)
            if one.run_id.int != number or one.version != version or one.type != tag:
                return None
            force_setattr(one, "position", position)  # nobody has seen it yet
            made.append(one)
    except (KeyError, *codec.UNREADABLE):
        return None
    return made


def with_content(row: StoredRow, outlined: Recorded, key: DataKey | None) -> Recorded:
    """`outlined`, the row's outline, with its content; `key` is the subject's, None if it was
    destroyed. Raises HistoryCorrupt.
    """
    decoder = _EVENTS.get(row.tag)
    if decoder is None:
        # No field of this event is sealed, or the tag is old: then its content may lie elsewhere.
        return outlined if row.tag in TYPES else _slowly(row, key)
    try:
        content = _CONTENTS.decode(row.state)
        if content.sealed is None:
            return outlined
        if key is None or not content.sealed:
            return msgspec.structs.replace(outlined, erased=True)
        plain = key.unseal(content.sealed, row.run_id, row.version)
        event: Event = decoder.decode(codec.joined(bytes(content.data), plain))
    except (*codec.UNREADABLE, HistoryCorrupt):
        return _slowly(row, key)
    return msgspec.structs.replace(outlined, event=event)


def _slowly(row: StoredRow, key: DataKey | None, *, outline: bool = False) -> Recorded:
    recorded = codec.decode(row, codec.open_row(row), key, outline=outline)
    return msgspec.structs.replace(recorded, hash="")
