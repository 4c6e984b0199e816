"""An event that this release cannot read: doubt, never a wrong answer, and the history shows it."""

from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from runs_domain.errors import HistoryCorrupt, UnknownEvent
from runs_domain.events import Json
from runs_domain.storage import codec, lean_codec
from runs_domain.upcast import Rule, upcast
from tests.support.api import Api
from tests.support.driven import Driven


def breaks(_data: Json) -> Json:
    return {"count": 1 // 0}


RULES: dict[str, tuple[str, Rule]] = {
    "run.begun.v1": ("run.begun.v2", dict),
    "run.round.v1": ("run.round.v2", dict),
    "run.round.v2": ("run.round.v1", dict),
    "run.broken.v1": ("run.started.v1", breaks),
    "run.odd.v1": ("run.key_revoked.v1", dict),
}
UNKNOWN = [
    ("run.started.v9", "no rule of this release knows run.started.v9"),
    ("run.begun.v1", "no rule of this release knows run.begun.v2"),
    ("run.round.v1", "the rules for run.round.v1 go round in a circle"),
]
CORRUPT = [
    ("run.broken.v1", "the rule for run.broken.v1 cannot read it (ZeroDivisionError)"),
    ("run.odd.v1", "(run.odd.v1) cannot be read"),
]


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "upcast", partial(upcast, rules=RULES))


async def with_a(tag: str, api: Api) -> Driven:
    """A run whose `started` is stored under another tag."""
    run = await api.start()
    await run.begin()
    rows = list(api.log.stored(run.run_id))
    state = rows[-1].state.replace(b"run.started.v1", tag.encode())
    rows[-1] = replace(rows[-1], tag=tag, state=state)
    api.log._streams[run.run_id] = rows
    return run


@pytest.mark.parametrize(("tag", "said"), UNKNOWN)
async def test_what_no_rule_reads_is_a_503_and_its_history_is_shown(tag: str, said: str) -> None:
    """A newer release's tag, a rule that is missing, rules in a circle: another process may know
    better. The error names run, version and tag, for logs and for ops.
    """
    api = Api()
    run = await with_a(tag, api)
    for path in (run.path, f"{run.path}?at=4", f"/api/chats/{run.chat_id}/messages"):
        answer = await api.get(path)
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
    assert (await api.post(f"{run.path}/cancel")).status == 503
    assert (await api.get(f"{run.path}?at=3")).json["status"] == "queued"
    shown = (await api.get(f"{run.path}/events")).json["data"]
    assert [event["type"] for event in shown][-1] == tag
    with pytest.raises(UnknownEvent) as caught:
        await api.log.read(run.run_id)
    assert str(caught.value) == f"event 4 of run {run.run_id}: {said}"


@pytest.mark.parametrize(("tag", "said"), CORRUPT)
async def test_what_a_rule_breaks_on_is_corrupt_by_name(tag: str, said: str) -> None:
    """No release will read it better: 500, and the log names the event."""
    api = Api()
    run = await with_a(tag, api)
    answer = await api.get(run.path)
    assert (answer.status, answer.json["error"]) == (500, "Internal server error")
    assert (await api.get(f"{run.path}/events")).status == 200
    with pytest.raises(HistoryCorrupt) as caught:
        await api.log.read(run.run_id)
    assert said in str(caught.value)
    assert f"event 4 of run {run.run_id}" in str(caught.value)


@pytest.mark.parametrize("tag", [tag for tag, _ in UNKNOWN + CORRUPT])
async def test_the_quick_reading_says_the_same_as_the_thorough_one(tag: str) -> None:
    """What views and rebuilds read with."""
    api = Api()
    run = await with_a(tag, api)
    row = api.log.stored(run.run_id)[-1]
    errors: list[Any] = []
    for read in (
        lambda: codec.decode(row, codec.open_row(row), None),
        lambda: lean_codec.outline(row),
    ):
        with pytest.raises(HistoryCorrupt) as caught:
            read()
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
