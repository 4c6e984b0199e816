"""The lock of released events: it grows, and whatever else happens to it is told by name."""

import copy
import json
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runs_domain import upcast
from runs_domain.events import SEALED, TYPES
from runs_domain.storage import codec
from scripts import release_events
from scripts.release_events import DOCUMENT, LOCK, ROOT, Lock
from scripts.released import event_shapes, event_tables, lock_history
from tests.domain.test_history import HISTORY, KEY, stored

FAILED = "run.failed.v1"
USAGE = {"type": {"fields": {"inputTokens": {"type": "integer", "default": 0}}}}


def lock() -> Lock:
    return copy.deepcopy(release_events.read_lock())


def told(now: Lock, released: Lock | None = None) -> list[str]:
    return [*release_events.broken(released or lock(), now)]


def test_invariant_10_this_release_stores_what_was_released(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What `./scripts/check events` runs: the lock, the corpus, the document, git."""
    assert release_events.main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def change(field: str, **new: Any) -> Any:
    return lambda shape: shape[field].update(new)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda shape: shape.pop("sentence"), "field sentence is gone"),
        (lambda shape: shape.update(reason={"type": "text"}), "field reason was not there"),
        (change("cost", default="0"), 'field cost had default null and has default "0"'),
        (change("cost", sealed=True), "field cost had no sealed and has sealed true"),
        (change("creditsCharged", type="text"), 'had type "integer" and has type "text"'),
        (lambda shape: shape["sentence"].update(default=""), "had no default and has default"),
        (lambda shape: shape["code"]["type"]["one of"].append("bored"), "field code had type"),
        (
            lambda shape: shape["usage"]["type"]["fields"].update(cachedTokens={"type": "integer"}),
            "field usage.cachedTokens was not there",
        ),
    ],
)
def test_invariant_10_a_released_shape_that_changes_in_place_is_refused(
    changed: Any, said: str
) -> None:
    """By tag and field, nested ones too, and with what to do instead."""
    now = lock()
    changed(now["events"][FAILED])
    (sentence,) = told(now)
    assert sentence.startswith(f"{FAILED}: ")
    assert said in sentence
    assert sentence.endswith("undo it, or store the new shape under a new tag (docs/events.md)")
    kept = release_events.added(lock(), now)
    assert kept["events"] == lock()["events"], "the script itself must not take it in"


def test_a_field_deep_inside_lists_is_named() -> None:
    now = lock()
    layout = now["events"]["run.message_persisted.v1"]["layout"]["type"]["list of"]["fields"]
    layout["part"]["default"] = 0
    assert [sentence.partition(" had ")[0] for sentence in told(now)] == [
        "run.message_persisted.v1: field layout.part"
    ]


def test_the_envelope_and_what_is_sealed_without_a_default_are_looked_at_too() -> None:
    now = lock()
    now["envelope"]["who"] = now["envelope"].pop("actor")
    new = {"run.noted.v1": {"note": {"type": "text", "sealed": True}}}
    now["events"] |= new
    assert [sentence.partition(":")[0] for sentence in told(now)] == [
        "the envelope",
        "the envelope",
        "run.noted.v1",
    ]


def test_a_released_tag_may_go_only_if_a_rule_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = lock()
    shape = now["events"].pop(FAILED)
    now["events"]["run.failed.v2"] = shape
    monkeypatch.delitem(TYPES, FAILED)
    (sentence,) = told(now)
    assert sentence.startswith(f"{FAILED} was released and cannot be read any more")
    monkeypatch.setitem(TYPES, "run.failed.v2", msgspec.Struct)  # type: ignore[arg-type]
    monkeypatch.setattr(
        upcast.newest_tag, "__kwdefaults__", {"rules": {FAILED: ("run.failed.v2", dict)}}
    )
    assert told(now) == []
    assert release_events.added(lock(), now)["events"][FAILED] == shape


def test_a_file_of_the_corpus_never_changes_and_never_goes() -> None:
    now = lock()
    first, second = list(now["corpus"])[:2]
    now["corpus"][first] = "0" * 64
    del now["corpus"][second]
    changed, gone = told(now)
    assert f"{first} was released and has changed: undo it, and add a file instead" in changed
    assert f"{second} was released and is gone" in gone


def test_what_is_new_must_be_released_and_stand_in_the_corpus() -> None:
    """The sentence is the command to run."""
    now, released = lock(), lock()
    del released["events"][FAILED]
    now["events"]["run.noted.v1"] = {}
    found = [*release_events.missing(released, now)]
    run_me = "run .venv/bin/python scripts/release_events.py and commit what it writes"
    assert sorted(found) == [f"{FAILED} is new: {run_me}", f"run.noted.v1 is new: {run_me}"]
    released = lock()
    released["events"]["run.noted.v1"] = {}
    assert [*release_events.missing(released, lock())] == [
        "run.noted.v1 stands in no file of tests/domain/history: add one (docs/events.md)"
    ]


def test_the_document_has_a_table_of_every_tag() -> None:
    """With every field, and nothing that is not so."""
    text = (ROOT / DOCUMENT).read_text("utf-8")
    assert event_tables.filled(text, lock()) == text
    for tag, shape in event_shapes.events().items():
        table = text.partition(f"### `{tag}`\n")[2].partition("###")[0]
        assert [name for name in shape if f"| `{name}` |" not in table] == []
    with pytest.raises(ValueError, match="has no line"):
        event_tables.filled("# Another document", lock())


def test_the_rule_that_the_document_shows_reads_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, so that whoever copies it has a rule that works."""
    text = (ROOT / DOCUMENT).read_text("utf-8")
    shown = textwrap.dedent(text.partition("```python\n")[2].partition("```")[0])
    module: dict[str, Any] = {"Json": dict}
    exec(shown, module)  # noqa: S102 - our own document
    monkeypatch.delitem(TYPES, FAILED)
    monkeypatch.setitem(TYPES, "run.failed.v2", msgspec.Struct)  # type: ignore[arg-type]
    found = [fields for tag, fields in stored_fields() if tag == FAILED]
    assert found
    for fields in found:
        tag, new = upcast.upcast(FAILED, dict(fields), rules=module["RULES"])
        assert tag == "run.failed.v2"
        assert new.pop("reason") == fields.pop("sentence")
        assert new == fields


# ------------------------------------------------------------------------------ what git knows


class Repository:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(  # noqa: S603 - arguments of our own
            ["git", *who, *arguments],  # noqa: S607 - git is where PATH says
            cwd=self.root,
            check=True,
            capture_output=True,
        )

    def commit(self, content: dict[str, Any]) -> None:
        path = self.root / LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        self.git("add", ".")
        self.git("commit", "--quiet", "--message=lock")

    def edits(self, now: dict[str, Any]) -> list[str]:
        return [*lock_history.edits(self.root, LOCK, now)]


ONE = {"events": {"a.v1": {"x": 1}}, "corpus": {"a.json": "1"}}
TWO = {"events": {"a.v1": {"x": 1}, "a.v2": {"y": 1}}, "corpus": {"a.json": "1"}}


def test_a_lock_that_was_edited_by_hand_is_found_in_gits_history(tmp_path: Path) -> None:
    """Also once the edit was committed; and bringing it back is enough."""
    repository = Repository(tmp_path)
    repository.commit(ONE)
    repository.commit(TWO)
    assert repository.edits(TWO) == []
    edited = {"events": {"a.v1": {"x": 2}}, "corpus": {"a.json": "1"}}
    expected = [
        f"{LOCK}: events a.v1 was changed in it by hand: bring back what git has",
        f"{LOCK}: events a.v2 was dropped from it by hand: bring back what git has",
    ]
    assert repository.edits(edited) == expected
    repository.commit(edited)
    assert repository.edits(edited) == expected
    assert repository.edits(TWO) == []


def test_what_a_branch_has_added_may_change_until_it_is_merged(tmp_path: Path) -> None:
    """The main branch alone is what was released."""
    repository = Repository(tmp_path)
    repository.commit(ONE)
    repository.git("checkout", "--quiet", "-b", "mine")
    repository.commit(TWO)
    draft = {"events": {"a.v1": {"x": 1}, "a.v2": {"z": 1}}, "corpus": {"a.json": "1"}}
    assert repository.edits(draft) == []
    assert len(repository.edits({"events": {}, "corpus": {}})) == 2
    repository.commit(draft)
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "--no-edit", "mine")
    assert repository.edits(draft) == []
    assert len(repository.edits(TWO)) == 1


def test_where_there_is_no_history_the_lock_stands_for_itself(tmp_path: Path) -> None:
    assert [*lock_history.edits(tmp_path, LOCK, ONE)] == []
    assert not lock_history.is_there(tmp_path, LOCK)
    repository = Repository(tmp_path)
    repository.commit(ONE)
    assert lock_history.is_there(tmp_path, LOCK)


# ------------------------------------------------------------------------------ the corpus's width


def stored_fields() -> Iterator[tuple[str, dict[str, Any]]]:
    """Tag, and the fields as they are stored, content opened."""
    for file in HISTORY:
        for row in stored(file):
            envelope = codec.open_row(row)
            yield row.tag, msgspec.json.decode(codec.stored(row, envelope, KEY).data)


def words(kind: Any, value: Any, path: str) -> Iterator[str]:
    """Each word of a closed choice that stands in `value`, with its path."""
    match kind:
        case {"one of": _}:
            yield f"{path}={value}"
        case {"either": kinds} if value is not None:
            yield from words(kinds[0], value, path)
        case {"list of": item}:
            for one in value:
                yield from words(item, one, path)
        case {"fields": fields}:
            yield from fields_within(fields, value, path)


def fields_within(shape: dict[str, Any], stored: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in shape.items():
        where = f"{path}.{name}"
        if name in stored:
            yield f"{where} is there"
            yield from words(field["type"], stored[name], where)
        elif "default" in field:
            yield f"{where} is left out"


def expected(shape: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in shape.items():
        where = f"{path}.{name}"
        yield f"{where} is there"
        if "default" in field:
            yield f"{where} is left out"
        yield from _expected_words(field["type"], where)


def _expected_words(kind: Any, path: str) -> Iterator[str]:
    match kind:
        case {"one of": values}:
            yield from (f"{path}={value}" for value in values)
        case {"either": kinds}:
            yield from _expected_words(kinds[0], path)
        case {"list of": item}:
            yield from _expected_words(item, path)
        case {"fields": fields}:
            yield from expected(fields, path)


NEVER_STORED = {
    "run.completed.v1.finishReason=tool-calls",
    "run.requested.v1.messages is left out",
}
"""A run does not end while it wants tools; one without messages is refused, and so is one of an
erased account."""


def test_invariant_10_the_corpus_has_every_field_there_and_left_out_and_every_word() -> None:
    shapes = event_shapes.events()
    found = {
        one for tag, fields in stored_fields() for one in fields_within(shapes[tag], fields, tag)
    }
    wanted = {one for tag, shape in shapes.items() for one in expected(shape, tag)}
    assert wanted - found == NEVER_STORED


def test_every_sealed_field_has_a_default_and_is_found_by_its_stored_name() -> None:
    for kind, names in SEALED.items():
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        assert all(not fields[name].required for name in names)
