"""Start, see, cancel a run; its history and its messages."""

import hashlib
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from runs_domain import commands as c
from runs_domain.errors import HistoryCorrupt
from runs_domain.events import Json
from runs_domain.ids import RunId, assistant_message_id
from runs_domain.ports import Job
from runs_domain.storage import codec
from runs_domain.upcast import upcast
from tests.support.api import MINE, Api
from tests.support.asgi import call

ORIGIN = {"origin": "https://app.example"}


def tags(answer: Any) -> list[str]:
    return [event["type"] for event in answer.json["data"]]


async def test_a_post_is_answered_after_one_append_with_all_that_a_client_needs() -> None:
    """202, the ids, where to look, and one job."""
    api = Api()
    answer = await api.post("/api/chat/runs", {"prompt": "  Say hello \n"})
    assert answer.status == 202
    assert answer.json.keys() == {"runId", "chatId", "sessionId"}
    run_id = answer.json["runId"]
    assert answer.headers["location"] == f"/api/chat/runs/{run_id}"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-workflow-run-id"] == run_id
    assert api.log.appends == 1
    assert {UUID(value).version for value in answer.json.values()} == {7}
    await api.background.close()
    (job,) = api.jobs.waiting.values()
    assert (job.kind, job.id, job.cause) == ("run", run_id, "fresh")


async def test_I_38_the_request_stands_in_the_history_as_it_was_meant() -> None:
    """Prompt trimmed, model resolved once, the artist and metadata as given (I-39)."""
    api = Api()
    artist = "0F2D71AF-1F4A-4CE5-8BA4-4F4D1C1E6B8A"
    run = await api.start(prompt="  hi ", model=" ", artistId=artist, metadata={"k": [1, None]})
    (event,) = (await api.get(f"{run.path}/events")).json["data"]
    data = event["data"]
    assert data["model"] == "scripted/echo"
    assert data["artistId"] == artist.lower()
    assert data["metadata"] == {"k": [1, None]}
    assert data["title"] == "Scheduled generation"
    assert [part["text"] for part in data["messages"][0]["parts"]] == ["hi"]


async def test_the_digest_is_of_the_request_not_of_its_spelling() -> None:
    """Order of keys and blanks do not count, content does."""
    api = Api()
    digests = []
    for raw in (
        b'{"prompt":"hi","metadata":{"a":1,"b":2}}',
        b'{ "metadata": {"b":2,"a":1}, "id":"x", "prompt":" hi ", "model":"" }',
        b'{"prompt":"hi","metadata":{"a":1,"b":3}}',
    ):
        path = (await api.post("/api/chat/runs", raw)).headers["location"]
        (event,) = (await api.get(f"{path}/events")).json["data"]
        digests.append(event["data"]["requestDigest"])
    assert digests[0] == digests[1] != digests[2]


async def test_I_06_the_users_message_is_there_before_the_202() -> None:
    """It is part of the run's first event; the id is the client's own."""
    api = Api()
    message = {"id": "m-7", "role": "user", "parts": [{"type": "text", "text": "hi"}], "x": 1}
    answer = await api.post("/api/chat/runs", {"messages": [message]})
    chat = answer.json["chatId"]
    assert (await api.get(f"/api/chats/{chat}/messages")).json == {"data": [message]}


async def test_the_assistants_message_comes_with_the_end_unless_asked_for() -> None:
    """A client that resumes the stream would show an unfinished one twice."""
    api = Api()
    run = await api.start()
    await run.begin()
    await run.say("so far", reason="tool-calls")
    path = f"/api/chats/{run.chat_id}/messages"
    assert [m["role"] for m in (await api.get(path)).json["data"]] == ["user"]
    partial = (await api.get(f"{path}?partial=true")).json["data"]
    assert [m["role"] for m in partial] == ["user", "assistant"]
    await run.say("and the end")
    await run.do(c.CompleteRun(attempt=run.attempt))
    _, own = (await api.get(path)).json["data"]
    assert own["id"] == assistant_message_id(run.run_id)
    assert [part["type"] for part in own["parts"]] == ["step-start", "text", "step-start", "text"]


async def test_status_goes_from_queued_to_completed() -> None:
    """Times and usage appear when there are any, never as null."""
    api = Api()
    run = await api.start()
    queued = (await api.get(run.path)).json
    assert queued["status"] == "queued"
    assert queued.keys() == {
        "runId", "status", "chatId", "sessionId", "model", "createdAt", "version",
    }  # fmt: skip
    await run.begin()
    assert (await api.get(run.path)).json["status"] == "running"
    await run.say()
    await run.do(c.CompleteRun(attempt=run.attempt))
    done = (await api.get(run.path)).json
    assert done["status"] == "completed"
    assert done["createdAt"] <= done["startedAt"] <= done["finishedAt"]
    assert done["usage"] == {"inputTokens": 3, "outputTokens": 2}


async def test_a_failed_run_says_why() -> None:
    """A code for programs, a sentence for people."""
    api = Api()
    run = await api.start()
    await run.begin()
    await run.do(
        c.FailRun(attempt=run.attempt, code="model_rejected", sentence="The model refused")
    )
    body = (await api.get(run.path)).json
    assert body["status"] == "failed"
    assert body["error"] == {"code": "model_rejected", "message": "The model refused"}


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"x", "{}"', "*"])
async def test_an_unchanged_run_is_a_304(form: str) -> None:
    """The version is the ETag; the next event changes it."""
    api = Api()
    run = await api.start()
    etag = (await api.get(run.path)).headers["etag"]
    assert etag == '"1"'
    same = await api.get(run.path, MINE | {"if-none-match": form.format(1)})
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", '"1"')
    await run.begin()
    changed = await api.get(run.path, MINE | {"if-none-match": etag})
    assert (changed.status, changed.headers["etag"]) == (200, '"4"')


async def test_a_run_is_shown_as_it_was_at_a_version() -> None:
    """The fold of its first events, whatever came after; nothing to cache by."""
    api = Api()
    run = await api.start()
    told = [(await api.get(run.path)).json]
    await run.begin()
    await run.say("one", reason="tool-calls")
    told.append((await api.get(run.path)).json)
    await run.say("two")
    await run.do(c.CompleteRun(attempt=run.attempt))
    told.append((await api.get(run.path)).json)
    assert [one["status"] for one in told] == ["queued", "running", "completed"]
    for one in told:
        then = await api.get(f"{run.path}?at={one['version']}", MINE | {"if-none-match": "*"})
        assert (then.status, then.json) == (200, one)
        assert "etag" not in then.headers


async def test_a_run_is_shown_as_it_was_at_a_time() -> None:
    """Up to and with the events of that moment; later than all of them is now."""
    api = Api()
    run = await api.start()
    await run.complete()
    history = (await api.get(f"{run.path}/events")).json["data"]
    for moment in {event["at"] for event in history}:
        last = max(event["version"] for event in history if event["at"] <= moment)
        then = await api.get(f"{run.path}?at={moment}")
        assert (then.status, then.json["version"]) == (200, last)
        west = datetime.fromisoformat(moment).astimezone(timezone(-timedelta(hours=2)))
        assert (await api.get(f"{run.path}?at={west.isoformat()}")).json == then.json
        east = datetime.fromisoformat(moment).astimezone(timezone(timedelta(hours=2)))
        assert (await api.get(f"{run.path}?at={east.isoformat()}")).json == then.json
    now = (await api.get(run.path)).json
    assert (await api.get(f"{run.path}?at=2999-01-01T00:00:00Z")).json == now


@pytest.mark.parametrize(
    "value",
    ["", "0", "-1", "1.5", "x", "9" * 10, "٣", "2026-01-01", "2026-01-01T00:00:00", "%00", "null"],
)
async def test_a_bad_point_in_time_is_a_400_that_names_it(value: str) -> None:
    """A time without its offset is one of 26 times."""
    api = Api()
    run = await api.start()
    answer = await api.get(f"{run.path}?at={value}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_body")
    assert answer.json["missing_fields"] == ["at"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("2", "at: the run has no such version yet; it is at 1"),
        ("1999-12-31T23:59:59Z", "at: the run was not there yet"),
    ],
)
async def test_a_point_that_the_run_does_not_have_is_a_400_with_the_reason(
    value: str, sentence: str
) -> None:
    """Neither the nearest state nor an empty one."""
    api = Api()
    run = await api.start()
    answer = await api.get(f"{run.path}?at={value}")
    assert (answer.status, answer.json["error"]) == (400, sentence)


async def test_each_of_several_if_none_match_headers_counts() -> None:
    """HTTP makes one list of them."""
    api = Api()
    run = await api.start()
    for tags_given in (('"1"', '"7"'), ('"7"', '"1"')):
        headers = [*MINE.items(), *(("if-none-match", tag) for tag in tags_given)]
        assert (await api.get(run.path, headers)).status == 304
    assert (await api.get(run.path, [*MINE.items(), ("if-none-match", '"7"')])).status == 200


async def test_a_queued_run_is_cancelled_at_once() -> None:
    """By the API itself: no worker may ever come."""
    api = Api()
    run = await api.start()
    answer = await api.post(f"{run.path}/cancel")
    assert (answer.status, answer.json) == (202, {"runId": str(run.run_id), "status": "cancelled"})
    assert tags(await api.get(f"{run.path}/events")) == [
        "run.requested.v1",
        "run.cancel_requested.v1",
        "run.cancelled.v1",
    ]
    again = await api.post(f"{run.path}/cancel")
    assert (again.status, again.json["status"]) == (200, "cancelled")


async def test_I_31_a_running_run_is_asked_to_stop_and_its_worker_told() -> None:
    """The event is the truth, the push makes it quick."""
    api = Api()
    run = await api.start()
    await run.begin()
    for _ in range(2):
        answer = await api.post(f"{run.path}/cancel")
        assert (answer.status, answer.json["status"]) == (202, "running")
    await api.background.close()
    assert api.cancels.pushed == [run.run_id]
    assert tags(await api.get(f"{run.path}/events")).count("run.cancel_requested.v1") == 1


async def test_a_cancel_makes_the_job_of_a_run_that_pauses_due_now() -> None:
    """A run that is to be tried again in 30 s would be told of its cancel after those only."""
    api = Api()
    run = await api.start()
    await run.begin()
    api.jobs.waiting.clear()
    job = Job(kind="run", id=str(run.run_id), account_id=str(MINE))
    await api.jobs.send(job, delay_seconds=30.0)

    assert (await api.post(f"{run.path}/cancel")).status == 202
    await api.background.close()

    assert list(api.jobs.waiting.values()) == [job]


async def test_a_cancel_does_not_need_the_job_queue() -> None:
    api = Api()
    run = await api.start()
    await run.begin()
    api.jobs.down = True

    answer = await api.post(f"{run.path}/cancel")
    await api.background.close()

    assert (answer.status, answer.json["status"]) == (202, "running")
    assert api.cancels.pushed == [run.run_id]


@pytest.mark.parametrize("ended", [False, True])
async def test_a_cancel_answers_with_the_runs_id_however_it_was_written(ended: bool) -> None:
    """An id has one spelling, whatever the client's was."""
    api = Api()
    run = await api.start()
    if ended:
        await run.complete()
    answer = await api.post(f"/api/chat/runs/{str(run.run_id).upper()}/cancel")
    assert answer.json["runId"] == str(run.run_id)


async def test_a_cancel_after_the_end_changes_nothing() -> None:
    """200 with the status, as often as one likes."""
    api = Api()
    run = await api.start()
    await run.complete()
    before = api.log.appends
    answer = await api.post(f"{run.path}/cancel")
    assert (answer.status, answer.json["status"]) == (200, "completed")
    assert api.log.appends == before


@pytest.mark.parametrize(("first", "status"), [("the end", 200), ("another cancel", 202)])
async def test_a_cancel_that_comes_second_says_what_came_first(first: str, status: int) -> None:
    """Whoever appends first wins: the run's end, or another client's cancel."""
    api = Api()
    run = await api.start()
    await run.begin()
    await run.say("hello")
    append = api.log.append

    async def beaten(wanted: Any) -> Any:
        api.log.append = append
        if first == "the end":
            await run.do(c.CompleteRun(attempt=run.attempt))
        else:
            await run.do(c.RequestCancel(by="key:2", why="client"))
        return await append(wanted)

    api.log.append = beaten
    answer = await api.post(f"{run.path}/cancel")

    assert answer.status == status
    assert answer.json["status"] == ("completed" if first == "the end" else "running")
    found = tags(await api.get(f"{run.path}/events"))
    assert found.count("run.cancel_requested.v1") == (first != "the end")


async def test_I_47_reads_never_write() -> None:
    """Not one event, whatever is looked at."""
    api = Api()
    run = await api.start()
    await run.complete()
    before = api.log.appends
    for path in (
        run.path,
        f"{run.path}/events",
        f"{run.path}/stream?startIndex=0",
        f"/api/chat/{run.chat_id}/stream",
        f"/api/chats/{run.chat_id}/messages?partial=true",
    ):
        assert (await api.get(path)).status in {200, 204}
    assert api.log.appends == before


async def test_the_history_is_the_log_with_its_chain() -> None:
    """Each event names the hash of the one before it."""
    api = Api()
    run = await api.start()
    await run.complete()
    events = (await api.get(f"{run.path}/events")).json["data"]
    assert [event["version"] for event in events] == list(range(1, 8))
    positions = [event["position"] for event in events]
    assert positions == sorted(set(positions))
    assert [event["prev"] for event in events[1:]] == [event["hash"] for event in events[:-1]]
    assert {"type", "version", "position", "at", "actor", "subject", "attempt", "data", "hash",
            "prev"} == events[0].keys()  # fmt: skip
    later = (await api.get(f"{run.path}/events?from_version=6")).json["data"]
    assert later == events[5:]
    assert (await api.get(f"{run.path}/events?from_version=99")).json == {"data": []}


async def test_the_history_shows_what_is_stored_not_what_it_is_read_as(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An old tag that a rule reads as today's, and a field that no release knows."""
    api = Api()
    run = await api.start()
    (row,) = api.log.stored(run.run_id)
    state = row.state.replace(b"run.requested.v1", b"run.requested.v0")
    state = state.replace(b'"model":"scripted/echo"', b'"engine":"scripted/echo","who":[1]')
    api.log._streams[run.run_id] = [replace(row, tag="run.requested.v0", state=state)]

    def renamed(old: Json) -> Json:
        return old | {"model": old["engine"]}

    rules = {"run.requested.v0": ("run.requested.v1", renamed)}
    monkeypatch.setattr(codec, "upcast", partial(upcast, rules=rules))
    (event,) = (await api.get(f"{run.path}/events")).json["data"]
    assert event["type"] == "run.requested.v0"
    assert (event["data"]["engine"], event["data"]["who"]) == ("scripted/echo", [1])
    assert "model" not in event["data"]
    assert event["data"]["messages"][0]["parts"] == [{"type": "text", "text": "Say hello"}]
    assert event["hash"] == hashlib.sha256(state).hexdigest()
    assert (await api.get(run.path)).json["model"] == "scripted/echo"


async def test_the_history_comes_in_lines_for_those_who_ask() -> None:
    """NDJSON by Accept: the same objects, one a line."""
    api = Api()
    run = await api.start()
    await run.complete()
    lines = await api.get(f"{run.path}/events", MINE | {"accept": "application/x-ndjson"})
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert lines.body.endswith(b"\n")
    objects = [msgspec.json.decode(line) for line in lines.body.splitlines()]
    assert objects == (await api.get(f"{run.path}/events")).json["data"]


@pytest.mark.parametrize(
    ("accept", "lines"),
    [
        ("application/x-ndjson;q=0", False),
        ("application/x-ndjson;q=0.000, */*", False),
        ("application/x-ndjson-seq", False),
        ("text/html, application/json", False),
        ("application/json, application/x-ndjson;q=0.5", False),
        ("*/*", False),
        ("", False),
        ("application/x-ndjson;q=x", False),
        ("APPLICATION/X-NDJSON", True),
        ("application/x-ndjson; q=0.8, application/json;q=0.2", True),
        ("text/html, application/x-ndjson ; q=0.1", True),
        ("application/x-ndjson, application/json", True),
    ],
)
async def test_lines_are_for_those_who_prefer_them(accept: str, lines: bool) -> None:
    """`Accept` as HTTP has it: case, weights, and q=0 is a no."""
    api = Api()
    run = await api.start()
    answer = await api.get(f"{run.path}/events", MINE | {"accept": accept})
    kind = "application/x-ndjson" if lines else "application/json"
    assert answer.headers["content-type"] == kind
    assert answer.headers["vary"] == "accept"


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "", "9" * 20])
async def test_a_bad_from_version_is_a_400(value: str) -> None:
    """In the envelope, naming the parameter, without its value."""
    api = Api()
    run = await api.start()
    answer = await api.get(f"{run.path}/events?from_version={value}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_body")
    assert answer.json["missing_fields"] == ["from_version"]
    assert answer.json["error"].startswith("from_version: expected int")


@pytest.mark.parametrize("value", ["", "maybe", "2"])
async def test_a_bad_partial_is_a_400_that_names_it(value: str) -> None:
    """As every value of a query."""
    api = Api()
    run = await api.start()
    answer = await api.get(f"/api/chats/{run.chat_id}/messages?partial={value}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_body")
    assert answer.json["missing_fields"] == ["partial"]
    assert answer.json["error"] == "partial: expected bool, got str"


@pytest.mark.parametrize("path", ["", "/events", "/stream", "/stream?startIndex=0"])
async def test_L_08_a_store_in_doubt_is_a_503_never_a_404(path: str) -> None:
    """Nor an empty list (I-62, I-66), nor a 204 (I-24)."""
    api = Api()
    run = await api.start()
    api.log.down = True
    answer = await api.get(run.path + path)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/api/chats/{}/messages", "/api/chat/{}/stream"])
async def test_I_62_a_chat_in_doubt_is_a_503_too(path: str) -> None:
    """ "No messages" would be a lie."""
    api = Api()
    run = await api.start()
    api.log.down = True
    assert (await api.get(path.format(run.chat_id))).status == 503


async def test_without_redis_a_post_is_still_a_202() -> None:
    """The log is the outbox: the reconciler sends what was not sent."""
    api = Api()
    api.jobs.down = True
    run = await api.start()
    assert not api.jobs.waiting
    assert (await api.get(run.path)).json["status"] == "queued"


async def test_a_fault_says_nothing_and_is_logged_without_content(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 "Internal server error"; the log names the class and the place (invariant 6)."""
    api = Api()
    run = await api.start()

    async def broken(_run: RunId) -> None:
        raise HistoryCorrupt("secret-canary")

    monkeypatch.setattr(api.log, "read_outline", broken)
    answer = await api.get(run.path)
    assert answer.status == 500
    assert answer.json == {"status": "error", "error": "Internal server error", "code": "internal"}
    assert "HistoryCorrupt answered with 500" in caplog.messages


async def test_I_32_a_browser_may_read_the_headers_that_clients_resume_by() -> None:
    """Exposed on answers, and on errors as well."""
    api = Api()
    run = await api.start()
    for headers, status in ((MINE, 200), ({}, 401)):
        answer = await api.get(run.path, headers | ORIGIN)
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]
        exposed = {
            name.strip() for name in answer.headers["access-control-expose-headers"].split(",")
        }
        assert exposed >= {
            "Location",
            "ETag",
            "Retry-After",
            "Idempotency-Replayed",
            "x-workflow-run-id",
            "x-workflow-stream-tail-index",
        }


async def test_a_preflight_allows_the_headers_that_clients_send() -> None:
    """Without a credential: browsers send none."""
    api = Api()
    asked = "x-api-key, authorization, content-type, idempotency-key, last-event-id"
    headers = ORIGIN | {
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    answer = await call(api.app, "OPTIONS", "/api/chat/runs", headers=headers)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert all(name.strip() in allowed for name in asked.split(","))


@pytest.mark.parametrize(
    "asked",
    [
        {"origin": "https://evil.example"},
        {"access-control-request-method": "DELETE"},
        {"access-control-request-headers": "x-other"},
    ],
)
async def test_a_refused_preflight_answers_in_the_envelope(asked: dict[str, str]) -> None:
    """As every error; its length is its own."""
    api = Api()
    preflight = ORIGIN | {"access-control-request-method": "POST"} | asked
    answer = await call(api.app, "OPTIONS", "/api/chat/runs", headers=preflight)
    assert (answer.status, answer.json["code"]) == (400, "forbidden")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))


async def test_another_origin_is_not_let_in() -> None:
    """Only those that the settings list."""
    api = Api()
    answer = await api.get("/healthz", {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


async def test_readiness_tells_postgres_from_redis() -> None:
    """Without Redis the API still accepts runs, so it stays ready and says so."""
    api = Api()
    assert (await api.get("/readyz", {})).json["status"] == "ok"
    api.chunks.down = True
    degraded = await api.get("/readyz", {})
    assert (degraded.status, degraded.json["parts"]["redis"]) == (200, "unavailable")
    api.log.down = True
    not_ready = await api.get("/readyz", {})
    assert (not_ready.status, not_ready.headers["retry-after"]) == (503, "1")
    assert (not_ready.json["status"], not_ready.json["code"]) == ("error", "unavailable")
    assert not_ready.json["parts"] == {"postgres": "unavailable", "redis": "unavailable"}
    assert (await api.get("/healthz", {})).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_probe_may_ask_with_head(path: str) -> None:
    """Load balancers do; the server leaves the body out."""
    api = Api()
    assert (await call(api.app, "HEAD", path)).status == 200
    api.log.down = path == "/readyz"
    assert (await call(api.app, "HEAD", path)).status == (503 if api.log.down else 200)


async def test_the_openapi_document_and_its_page_come_from_here() -> None:
    """The document as application/json; the page loads nothing from elsewhere."""
    api = Api()
    answer = await api.get("/openapi.json", {})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["paths"]["/healthz"]["get"]["security"] == []
    page = (await api.get("/docs", {})).body
    assert b"/api/chats/{chat_id}/messages" in page
    assert b"http" not in page.replace(b"<!doctype html>", b"")
