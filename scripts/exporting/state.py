"""What an export remembers of itself between two parts, so that it can go on after any end."""

from typing import Final

import msgspec
from bundle_check.bundle import FORMAT, FORMAT_UNFINISHED
from exporting.lines import RunLine

from runs_domain.ids import AccountId
from runs_domain.storage.export_reads import RunAt
from runs_domain.storage.export_span import Span


class Asked(msgspec.Struct, frozen=True, rename="camel"):
    """The command line, times as UTC texts. Another one is another export."""

    since: str | None
    until: str | None
    unsealed: bool


class PartFile(msgspec.Struct, frozen=True, rename="camel"):
    """A file of the bundle that is whole."""

    name: str
    bytes: int
    lines: int
    sha256: str


class Counts(msgspec.Struct, rename="camel"):
    runs: int = 0
    events: int = 0
    begun_before: int = 0
    """Runs whose first event here is not their first."""
    ended: int = 0
    erased: int = 0
    """Runs with content in these events that nobody can read any more."""
    damaged: int = 0
    """Events that do not say when they were committed, or are about another account."""
    by_type: dict[str, int] = msgspec.field(default_factory=dict)


class Header(msgspec.Struct, frozen=True, rename="camel"):
    """What an export is of; the same from its beginning to its end."""

    tool: str
    account: AccountId
    asked: Asked
    window: Span
    log_mark: str
    """Of the log that it was taken from, `export_span.log_mark`."""
    content_erased: bool
    """The account's data key was destroyed when the export began."""
    searched_for_lost_heads: bool
    lost_heads: tuple[RunAt, ...]
    """Runs of the account that `run_heads` does not give."""


class Unfinished(msgspec.Struct, rename="camel", tag_field="format", tag=FORMAT_UNFINISHED):
    account: AccountId
    header: Header
    counts: Counts
    files: list[PartFile]
    runs_bytes: int = 0
    """Of runs.ndjson: what lies behind is written again."""
    runs_lines: int = 0
    run: RunLine | None = None
    """The run of the last event that is in a whole part; its line is not written yet."""


class Manifest(msgspec.Struct, rename="camel", tag_field="format", tag=FORMAT):
    tool: str
    account: AccountId
    asked: Asked
    window: Span
    log_mark: str
    content_erased: bool
    searched_for_lost_heads: bool
    runs_without_head: int
    counts: Counts
    files: list[PartFile]


_EITHER: Final = msgspec.json.Decoder(Unfinished | Manifest)


def read(raw: bytes) -> Unfinished | Manifest:
    """Raises msgspec.MsgspecError."""
    return _EITHER.decode(raw)


def manifest_of(state: Unfinished, runs: PartFile) -> Manifest:
    header = state.header
    counts = msgspec.structs.replace(
        state.counts, by_type=dict(sorted(state.counts.by_type.items()))
    )
    return Manifest(
        tool=header.tool,
        account=header.account,
        asked=header.asked,
        window=header.window,
        log_mark=header.log_mark,
        content_erased=header.content_erased,
        searched_for_lost_heads=header.searched_for_lost_heads,
        runs_without_head=len(header.lost_heads),
        counts=counts,
        files=[runs, *state.files],
    )


def written(one: Unfinished | Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(one), indent=2) + b"\n"
