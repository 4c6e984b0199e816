"""Told runs as bytes with gaps: a run is told and encoded once, and filled in for many.

Everything between the gaps is what `stories` and the log's own codec made; what goes into them
are a run's ids, its text, the times and the hashes. Filling in costs a tenth of telling.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID

from seeding.plan import Plan
from seeding.stories import EVENTS_OF, MICROSECONDS, Ids, Life, Teller, tell
from typing_extensions import override

from runs_domain.ids import AccountId, ChatId, RunId, SessionId, Version, run_key_id
from runs_domain.ports import Append, KeyIssuer
from runs_domain.storage import codec
from runs_domain.storage.sealing import DataKey

IDS: Final = Ids(
    run_id=RunId(UUID("7e570001-5eed-7000-8000-9a6d1c0e4f01")),
    chat_id=ChatId(UUID("7e570002-5eed-7000-8000-9a6d1c0e4f02")),
    session_id=SessionId(UUID("7e570003-5eed-7000-8000-9a6d1c0e4f03")),
    account_id=AccountId(UUID("7e570004-5eed-7000-8000-9a6d1c0e4f04")),
    actor="key:7e570005-5eed-7000-8000-9a6d1c0e4f05",
    request_id="7e570006-5eed-7000-8000-9a6d1c0e4f06",
    digest="7e5700075eed70008000" + "9a6d1c0e4f07" * 4,
)
"""Of the run that is told: each stands in the bytes where another run's is to go."""

Gap = int
RUN, RUN_HEX, CHAT, SESSION, SESSION_HEX, ACCOUNT, ACTOR, REQUEST, DIGEST, KEY, TEXT = range(11)
AT, PREV, SEALED = range(11, 14)
GAPS: Final = 14
"""What goes where, by its place among a run's values."""


class Content(NamedTuple):
    """The plain JSON of an event's content, before it is sealed."""

    form: bytes
    values: Callable[[Sequence[bytes]], tuple[bytes, ...]]


class EventForm(NamedTuple):
    tag: bytes
    form: bytes
    """The whole stored event, a `%b` for each gap."""
    values: Callable[[Sequence[bytes]], tuple[bytes, ...]]
    content: Content | None


class AppendForm(NamedTuple):
    at: int
    """Microseconds after the run's first append."""
    events: tuple[EventForm, ...]
    mints: bool
    ends: bool
    """Revokes the key, if there is one."""


class RunForm(NamedTuple):
    appends: tuple[AppendForm, ...]
    events: int
    last: Append
    """Of the run that was told: status, live and open of the head."""


class _Listener(DataKey):
    """In place of an account's key: keeps what is to be sealed, and gives a mark for it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    @override
    def seal(self, plain: bytes, run_id: RunId, version: Version, *, row: str = "") -> bytes:
        self.heard.append(plain)
        return _MARK


_MARK: Final = b"sealed content goes here"


def form_of(life: Life, chance: Random, issuer: KeyIssuer, plan: Plan) -> RunForm:
    """`life` told once, with tokens, workers and pauses as `chance` has them."""
    text = _text(plan.content_bytes)
    gaps = _gaps(text)
    said = tell(life, Teller(IDS, chance, issuer, plan.secret_version, text))
    events = sum(len(one.append.events) for one in said)
    if events != EVENTS_OF[life]:
        raise AssertionError(f"{life.__name__} has {events} events")
    return RunForm(
        appends=tuple(_append_form(one.at, one.append, gaps) for one in said),
        events=events,
        last=said[-1].append,
    )


def fill(
    form: EventForm, values: list[bytes], version: int, run_id: RunId, key: DataKey
) -> tuple[bytes, bytes]:
    """The stored bytes, and their hash. `values` has the time and the hash before it."""
    if form.content is not None:
        plain = form.content.form % form.content.values(values)
        values[SEALED] = base64.b64encode(key.seal(plain, run_id, Version(version)))
    state = form.form % form.values(values)
    return state, hashlib.sha256(state).digest()


def values_of(ids: Ids, text: bytes) -> list[bytes]:
    """What goes into the gaps, but for times and hashes."""
    return [
        str(ids.run_id).encode(),
        ids.run_id.hex.encode(),
        str(ids.chat_id).encode(),
        str(ids.session_id).encode(),
        ids.session_id.hex.encode(),
        str(ids.account_id).encode(),
        ids.actor.encode(),
        ids.request_id.encode(),
        ids.digest.encode(),
        str(run_key_id(ids.run_id)).encode(),
        text,
        b"",
        b"",
        b"",
    ]


def time_of(microseconds: int) -> datetime:
    """Exact, as a float would not be."""
    seconds, rest = divmod(microseconds, MICROSECONDS)
    return datetime.fromtimestamp(seconds, tz=UTC).replace(microsecond=rest)


def _text(length: int) -> str:
    """A text that stands nowhere else; nothing in it needs an escape in JSON."""
    return ("~" + "text goes here " * (length // 15 + 1))[:length]


def _gaps(text: str) -> dict[bytes, Gap]:
    known = values_of(IDS, text.encode())
    gaps = {known[gap]: gap for gap in range(TEXT + 1)}
    return gaps | {_AT: AT, _PREV: PREV, base64.b64encode(_MARK): SEALED}


_AT: Final = codec.time_text(time_of(0)).encode()
_PREV: Final = b"the hash of the event before goes here"


def _append_form(at: int, append: Append, gaps: dict[bytes, Gap]) -> AppendForm:
    listener = _Listener()
    pieces = codec.encode(append, listener)
    heard = iter(listener.heard)
    return AppendForm(
        at=at,
        events=tuple(
            _event_form(
                piece,
                next(heard) if codec.has_content(event) else None,
                gaps,
            )
            for event, piece in zip(append.events, pieces, strict=True)
        ),
        mints=append.mint is not None,
        ends=not append.live,
    )


def _event_form(piece: codec.Pieces, content: bytes | None, gaps: dict[bytes, Gap]) -> EventForm:
    form, values = _with_gaps(piece.join(time_of(0), _PREV.decode()), gaps)
    return EventForm(
        tag=piece.tag.encode(),
        form=form,
        values=values,
        content=None if content is None else Content(*_with_gaps(content, gaps)),
    )


def _with_gaps(
    told: bytes, gaps: dict[bytes, Gap]
) -> tuple[bytes, Callable[[Sequence[bytes]], Any]]:
    """Bytes as a form for `%`, and what takes the values that its gaps need, in order."""
    marks = sorted(gaps, key=len, reverse=True)
    pieces = re.split(b"(" + b"|".join(map(re.escape, marks)) + b")", told)
    form = b"".join(
        b"%b" if number % 2 else piece.replace(b"%", b"%%") for number, piece in enumerate(pieces)
    )
    order = [gaps[mark] for mark in pieces[1::2]]
    if len(order) > 1:
        return form, itemgetter(*order)
    return form, lambda values: tuple(values[gap] for gap in order)
