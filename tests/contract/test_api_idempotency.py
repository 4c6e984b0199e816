"""The same `Idempotency-Key` twice is one run, whatever happens in between."""

import asyncio
import dataclasses
from typing import Any
from uuid import UUID

import pytest

from runs_api.deps import DEPS
from runs_domain.errors import StoreUnavailable
from runs_domain.ids import RunId
from runs_domain.ports import Append, Recorded
from tests.support.api import MEMBER, MEMBERS, MINE, ORGS, THEIRS, Api
from tests.support.asgi import Answer
from tests.support.driven import Driven

RUNS = "/api/chat/runs"
KEY = {"idempotency-key": "order 7"}
BODY = {"prompt": "hi"}


async def post(
    api: Api, body: dict[str, Any] = BODY, who: dict[str, str] = MINE, **key: str
) -> Answer:
    return await api.post(RUNS, body, who | (key or KEY))


async def test_the_same_key_and_body_give_the_first_answer_again() -> None:
    """The same ids and headers, marked; one event, one job."""
    api = Api()
    first, again = await post(api), await post(api)
    assert (first.status, again.status) == (202, 202)
    assert again.json == first.json
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    for name in ("location", "retry-after", "x-workflow-run-id"):
        assert again.headers[name] == first.headers[name]
    assert len(api.log._rows) == 1
    await api.background.close()
    assert len(api.jobs.waiting) == 1


async def test_the_same_body_in_another_spelling_is_the_same_request() -> None:
    """Blanks, order and what SDK transports add do not count."""
    api = Api()
    first = await post(api, {"prompt": "hi", "metadata": {"a": 1}})
    again = await post(api, {"metadata": {"a": 1}, "id": "x", "model": "", "prompt": " hi "})
    assert again.json == first.json


@pytest.mark.parametrize("body", [{"prompt": "ho"}, BODY | {"model": "scripted/playbook"}])
async def test_the_same_key_with_another_body_is_a_422(body: dict[str, Any]) -> None:
    """The client has mixed up two requests; neither is started for it."""
    api = Api()
    await post(api)
    answer = await post(api, body)
    assert (answer.status, answer.json["code"]) == (422, "idempotency_mismatch")
    assert "idempotency-replayed" not in answer.headers
    assert len(api.log._rows) == 1


async def test_a_key_is_an_accounts_own() -> None:
    """Two accounts may use the same one; an organisation's counts for whom it acts for."""
    api = Api()
    runs = [
        await post(api),
        await post(api, who=THEIRS),
        await post(api, who=ORGS),
        await post(api, BODY | {"accountId": str(MEMBER)}, ORGS),
        await post(api, **{"idempotency-key": "order 8"}),
    ]
    assert len({run.json["runId"] for run in runs}) == len(runs)
    assert not any("idempotency-replayed" in run.headers for run in runs)
    again = await post(api, BODY | {"accountId": str(MEMBER)}, MEMBERS)
    assert again.json == runs[3].json


async def test_without_a_key_each_post_is_a_run() -> None:
    """Nothing is guessed from the body."""
    api = Api()
    first, second = await api.post(RUNS, BODY), await api.post(RUNS, BODY)
    assert first.json["runId"] != second.json["runId"]


async def test_many_at_once_with_one_key_are_one_run() -> None:
    """One of them wins, the others read what it wrote."""
    api = Api()
    answers = await asyncio.gather(*(post(api) for _ in range(20)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert len(api.log._rows) == 1


async def test_invariant_1_a_reply_that_was_lost_after_the_commit_is_given_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a crash between the commit and the 202: one run, and its job is sent now."""
    api = Api()
    append = api.log.append

    async def lost(one: Append) -> tuple[Recorded, ...]:
        await append(one)
        raise StoreUnavailable("the reply was lost")

    monkeypatch.setattr(api.log, "append", lost)
    assert (await post(api)).status == 503
    monkeypatch.undo()
    await api.background.close()
    assert not api.jobs.waiting
    again = await post(api)
    assert (again.status, again.headers["idempotency-replayed"]) == (202, "true")
    await api.background.close()
    ((_, sent),) = api.jobs.waiting
    assert sent == again.json["runId"]


async def test_a_key_is_good_for_as_long_as_its_run_is_kept_and_changes_nothing() -> None:
    """After the end, too; no job is sent for a run that has gone on."""
    api = Api()
    first = await post(api)
    await api.background.close()
    job = api.jobs.take()
    assert job is not None
    run = Driven(api.log, api.chunks, RunId(UUID(job.id)), first.json)
    await run.complete()
    api.jobs.finish(job)
    events = len(api.log._rows)
    assert (await post(api)).json == first.json
    await api.background.close()
    assert len(api.log._rows) == events
    assert not api.jobs.waiting


async def test_a_model_that_is_no_longer_served_does_not_spoil_an_old_answer() -> None:
    """It was served when the key was new; a new key is refused."""
    api = Api()
    first = await post(api)
    deps = api.app.state[DEPS]
    api.app.state[DEPS] = dataclasses.replace(deps, is_served=lambda _model: False)
    assert (await post(api)).json == first.json
    answer = await post(api, **{"idempotency-key": "new"})
    assert (answer.status, answer.json["code"]) == (400, "unknown_model")


@pytest.mark.parametrize(
    "keys", [[""], ["a" * 256], ["a\tb"], ["\x7f"], ["ü"], ["a", "b"], ["a", "a"]]
)
async def test_what_is_no_key_is_a_400_that_names_the_header(keys: list[str]) -> None:
    """Empty, too long, not printable, or two of them."""
    api = Api()
    headers = [*MINE.items(), *(("idempotency-key", key) for key in keys)]
    answer = await api.post(RUNS, BODY, headers)
    assert (answer.status, answer.json["code"]) == (400, "invalid_body")
    assert answer.json["missing_fields"] == ["Idempotency-Key"]
    await api.nothing_happened()


async def test_the_longest_key_is_taken() -> None:
    """All 255 characters of it count."""
    api = Api()
    first = await post(api, **{"idempotency-key": "a" * 255})
    other = await post(api, **{"idempotency-key": "a" * 254 + "b"})
    assert (first.status, other.status) == (202, 202)
    assert first.json["runId"] != other.json["runId"]


async def test_doubt_about_a_key_is_a_503() -> None:
    """Never a second run."""
    api = Api()
    await post(api)
    api.log.down = True
    assert (await post(api)).status == 503
