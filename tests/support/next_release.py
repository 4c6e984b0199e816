"""A release of tomorrow: this one's source with `requested` in a third shape, made as
docs/events.md tells to.

v2: `artistId` is called `artist` and is sealed, `requestDigest` is two fields, `retryOf` is a uuid,
and the sealed `title` is called `runTitle`. v3: `organizationId` is called `organization`.
"""

import shutil
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[2] / "src"

V1_TO_V2: Final = """
def _requested_v2(data: Json) -> Json:
    data["digestKind"], data["digest"] = "sha256", data.pop("requestDigest")
    for old, new in (("artistId", "artist"), ("title", "runTitle")):
        if old in data:
            data[new] = data.pop(old)
    return data
"""
V2_TO_V3: Final = """
def _requested_v3(data: Json) -> Json:
    if "organizationId" in data:
        data["organization"] = data.pop("organizationId")
    return data
"""
EMPTY_RULES: Final = "RULES: Final[Mapping[str, tuple[str, Rule]]] = {}\n"
RULES: Final = """
RULES: Final[Mapping[str, tuple[str, Rule]]] = {
    "run.requested.v1": ("run.requested.v2", _requested_v2),
    "run.requested.v2": ("run.requested.v3", _requested_v3),
}
"""
BACKWARD: Final = """
def _requested_v1(data: Json) -> Json:
    data["requestDigest"] = data.pop("digest")
    for new, old in (
        ("artist", "artistId"), ("runTitle", "title"), ("organization", "organizationId")
    ):
        if new in data:
            data[old] = data.pop(new)
    return data


RULES: Final[Mapping[str, tuple[str, Rule]]] = {
    "run.requested.v3": ("run.requested.v1", _requested_v1),
}
"""

Edit = tuple[str, str, str]
"""File, what stands there once, what shall."""

RENAMED: Final[tuple[Edit, ...]] = tuple(
    edit
    for file in ("runs_domain/events.py", "runs_domain/commands.py")
    for edit in (
        (file, "    artist_id: str | None = None\n", "    artist: str | None = None\n"),
        (file, "    organization_id: AccountId | None", "    organization: AccountId | None"),
        (file, "    retry_of: str | None = None", "    retry_of: RunId | None = None"),
        (file, "    title: str", "    run_title: str"),
        (file, "ChatId, KeyId, SessionId", "ChatId, KeyId, RunId, SessionId"),
    )
)
THIRD: Final[tuple[Edit, ...]] = (
    *RENAMED,
    ("runs_domain/events.py", "    request_digest:", "    digest_kind: str\n    digest:"),
    ("runs_domain/commands.py", "    request_digest:", "    digest_kind: str\n    digest:"),
    ("runs_api/start.py", "request_digest=asked", 'digest_kind="sha256", digest=asked'),
    ("runs_domain/events.py", '"run.requested.v1"', '"run.requested.v3"'),
    ("runs_domain/events.py", '("title", "messages"', '("artist", "run_title", "messages"'),
    ("runs_domain/upcast.py", EMPTY_RULES, V1_TO_V2 + V2_TO_V3 + RULES),
    ("runs_domain/dead_letters.py", '"retry_of": str(letter.id)', '"retry_of": RunId(letter.id)'),
    ("workers/agent/prompt.py", "{requested.artist_id}", "{requested.artist}"),
    ("workers/agent/prompt.py", "if requested.artist_id is", "if requested.artist is"),
    ("runs_api/start.py", "requested.request_digest !=", "requested.digest !="),
    ("runs_api/start.py", "artist_id=asked", "artist=asked"),
    ("runs_api/start.py", "organization_id=subject", "organization=subject"),
    ("runs_api/start.py", "title=TITLE", "run_title=TITLE"),
)
READERS_FIRST: Final[tuple[Edit, ...]] = (("runs_domain/upcast.py", EMPTY_RULES, BACKWARD),)
"""What goes out before: it writes the first shape, and can read the third."""


def made(folder: Path, edits: tuple[Edit, ...]) -> Path:
    """The source with `edits`, to be put on PYTHONPATH."""
    source = folder / "src"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, after in edits:
        path = source / file
        text = path.read_text("utf-8")
        assert text.count(before) == 1, f"{file} has {before!r} {text.count(before)} times"
        path.write_text(text.replace(before, after), "utf-8")
    return source
