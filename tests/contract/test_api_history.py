"""Long histories, erased ones, and those of a newer release: GET events and `?at=`."""

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest
from litestar.exceptions import LitestarException
from msgspec.structs import replace

from runs_api import history
from runs_domain.ports import Stored
from tests.support.api import ME, MINE, Api
from tests.support.driven import Driven

LINES = MINE | {"accept": "application/x-ndjson"}


async def ended_run(api: Api) -> Driven:
    run = await api.start()
    await run.complete()
    return run


def after_the_first_page(
    api: Api, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[None]]
) -> None:
    """Pages have two events; before the second is read, something happens."""
    read_stored, pages = api.log.read_stored, count(1)

    async def read(*arguments: Any, **named: Any) -> tuple[Stored, ...]:
        if next(pages) == 2:
            await happens()
        return await read_stored(*arguments, **named)

    monkeypatch.setattr(history, "PAGE_EVENTS_MAX", 2)
    monkeypatch.setattr(api.log, "read_stored", read)


@pytest.mark.parametrize("page", [1, 2, 3, 6, 7, 8])
async def test_a_long_history_comes_in_pieces_that_are_one_answer(
    page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api()
    run = await ended_run(api)
    whole = await api.get(f"{run.path}/events")
    lines = await api.get(f"{run.path}/events", LINES)
    rest = await api.get(f"{run.path}/events?from_version=3")

    monkeypatch.setattr(history, "PAGE_EVENTS_MAX", page)

    for target, headers, before in (
        (f"{run.path}/events", MINE, whole),
        (f"{run.path}/events", LINES, lines),
        (f"{run.path}/events?from_version=3", MINE, rest),
    ):
        answer = await api.get(target, headers)
        assert (answer.status, answer.body) == (200, before.body)
        for name in ("content-type", "vary"):
            assert answer.headers[name] == before.headers[name]
    assert len(whole.json["data"]) == 7
    assert (await api.get(f"{run.path}/events?from_version=99")).json == {"data": []}


async def test_a_history_that_goes_on_ends_near_where_it_stood_when_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a reader could be kept for as long as the run goes on."""
    api = Api()
    run = await api.start()
    await run.begin()

    async def it_goes_on() -> None:
        await run.say("one", reason="tool-calls")
        await run.say("two")

    after_the_first_page(api, monkeypatch, it_goes_on)
    told = (await api.get(f"{run.path}/events")).json["data"]
    assert [one["version"] for one in told] == [1, 2, 3, 4]


@pytest.mark.parametrize("headers", [MINE, LINES])
async def test_a_history_that_breaks_off_is_never_told_as_whole(
    headers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has no end, so that no client takes it for one; before it, doubt is 503."""
    api = Api()
    run = await ended_run(api)

    async def the_store_goes_down() -> None:
        api.log.down = True

    after_the_first_page(api, monkeypatch, the_store_goes_down)
    async with api.stream(f"{run.path}/events", headers) as (status, _, body):
        first = await body.read()
        with pytest.raises(LitestarException, match="after response started"):
            await body.read_all()
    assert status == 200
    assert b'"version":2' in first
    assert not first.endswith(b"]}")
    assert (await api.get(f"{run.path}/events", headers)).status == 503


async def test_an_erased_event_says_so_and_an_account_without_content_does_not() -> None:
    api = Api()
    run = await ended_run(api)
    before = (await api.get(f"{run.path}/events")).json["data"]
    assert not any("erased" in one for one in before)

    api.log.data_key_rows.destroy(ME)
    api.log.data_keys.forget(ME)

    after = (await api.get(f"{run.path}/events")).json["data"]
    assert [one["version"] for one in after if one.get("erased")] == [1, 5]
    for one, was in zip(after, before, strict=True):
        assert one["hash"] == was["hash"]
        assert one["data"].items() <= was["data"].items()
        assert not {"messages", "title", "parts", "layout"} & one["data"].keys()
    assert (await api.get(f"{run.path}?at=5")).json["status"] == "running"


async def test_what_a_newer_release_wrote_later_hides_nothing_before_it() -> None:
    api = Api()
    run = await ended_run(api)
    row = api.log.stored(run.run_id)[4]
    state = row.state.replace(b"run.message_persisted.v1", b"run.message_persisted.v9")
    api.log._streams[run.run_id][4] = replace(row, tag="run.message_persisted.v9", state=state)

    at_four = await api.get(f"{run.path}?at=4")
    assert (at_four.status, at_four.json["status"], at_four.json["version"]) == (200, "running", 4)
    assert (await api.get(f"{run.path}?at=5")).status in {500, 503}
    events = (await api.get(f"{run.path}/events")).json["data"]
    assert [one["version"] for one in events] == list(range(1, 8))
    assert events[4]["type"] == "run.message_persisted.v9"
    assert events[4]["data"]["parts"]
