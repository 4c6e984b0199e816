"""The OpenAPI document and what the routes really answer: each is held against the other."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace as replaced
from typing import Any

import jsonschema
import msgspec
import pytest
from litestar.routes import HTTPRoute
from msgspec.structs import replace

from runs_api import json_body
from runs_api.deps import DEPS
from runs_api.json_body import BODY_BYTES_MAX
from runs_domain import commands as c
from runs_domain.errors import VersionConflict
from runs_domain.ids import Version
from runs_domain.ports import Append
from runs_domain.storage.identity import uuid7
from tests.support.api import MINE, THEIRS, Api
from tests.support.asgi import Answer, call, exchange
from tests.support.driven import Driven

RUNS = "/api/chat/runs"
RUN = "/api/chat/runs/{run_id}"
OF_A_RUN = (
    ("GET", RUN),
    ("POST", f"{RUN}/cancel"),
    ("GET", f"{RUN}/events"),
    ("GET", f"{RUN}/stream"),
    ("GET", "/api/chat/{chat_id}/stream"),
    ("GET", "/api/chats/{chat_id}/messages"),
)
NOT_SHOWN = {"431", "500"}
"""Made by what stands around the routes, in tests of their own."""
KEY = {"idempotency-key": "one"}

Given = tuple[str, str, Answer]
"""Method, path as the document has it, and what came."""


async def given(api: Api) -> AsyncIterator[Given]:
    """Each kind of answer that there is, from a route at least once."""
    run, live = await ended_badly(api), await api.start()
    await live.begin()
    await live.say(reason="tool-calls")
    for each in (
        of_a_start(api),
        of_a_list(api),
        of_a_status(api, run, live),
        of_a_cancel(api, run, live),
        of_reads(api, run),
        of_refusals(api, run),
        of_probes(api),
    ):
        async for one in each:
            yield one


async def ended_badly(api: Api) -> Driven:
    """A run with all that its status can show."""
    run = await api.start()
    await run.begin()
    await run.say(reason="tool-calls")
    await run.do(c.FailRun(attempt=run.attempt, code="internal", sentence="It broke"))
    return run


async def of_a_start(api: Api) -> AsyncIterator[Given]:
    ask = {"prompt": "hi", "metadata": {"a": 1}, "id": None, "artistId": str(uuid7())}
    for body, headers in (
        (ask, {}),
        ({"messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "a"}]}]}, {}),
        (ask, KEY),
        (ask, KEY),
        ({"prompt": "other"}, KEY),
        ({}, {}),
        ({"prompt": "hi", "accountId": str(uuid7())}, {}),
        ({"prompt": "x" * BODY_BYTES_MAX}, {}),
    ):
        yield "POST", RUNS, await api.post(RUNS, body, MINE | headers)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_body, "BODY_SECONDS_MAX", 0.01)
        yield "POST", RUNS, await without_a_body(api)


async def of_a_list(api: Api) -> AsyncIterator[Given]:
    api.run_lists.behind_seconds = 3.0
    for query in ("", "?limit=1", "?status=cancelled", "?limit=0"):
        yield "GET", RUNS, await api.get(RUNS + query)


async def without_a_body(api: Api) -> Answer:
    """It is promised and does not come."""
    sent = exchange(api.app, "POST", RUNS, headers=MINE)
    sent._asked = True
    status, headers = await sent.head()
    return Answer(status, headers, await sent.read_all())


async def of_a_status(api: Api, run: Driven, live: Driven) -> AsyncIterator[Given]:
    for one, query, headers in (
        (run, "", {}),
        (live, "", {}),
        (live, "?at=1", {}),
        (run, "?at=x", {}),
        (run, "", {"if-none-match": "*"}),
    ):
        yield "GET", RUN, await api.get(one.path + query, MINE | headers)


async def of_a_cancel(api: Api, run: Driven, live: Driven) -> AsyncIterator[Given]:
    async def refused(append: Append) -> Any:
        raise VersionConflict(append.run_id, append.expected_version, Version(99))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(api.log, "append", refused)
        yield "POST", f"{RUN}/cancel", await api.post(f"{live.path}/cancel")
    for one in (live, run):
        yield "POST", f"{RUN}/cancel", await api.post(f"{one.path}/cancel")


async def of_reads(api: Api, run: Driven) -> AsyncIterator[Given]:
    lines = {"accept": "application/x-ndjson"}
    for path, query, headers in (
        (f"{RUN}/events", "", {}),
        (f"{RUN}/events", "", lines),
        (f"{RUN}/events", "?from_version=0", {}),
        (f"{RUN}/stream", "?startIndex=0", {}),
        (f"{RUN}/stream", "", {}),
        (f"{RUN}/stream", "", {"last-event-id": "x"}),
        ("/api/chat/{chat_id}/stream", "", {"last-event-id": "0"}),
        ("/api/chat/{chat_id}/stream", "?startIndex=999", {}),
        ("/api/chat/{chat_id}/stream", "?startIndex=x", {}),
        ("/api/chats/{chat_id}/messages", "", {}),
        ("/api/chats/{chat_id}/messages", "?partial=x", {}),
    ):
        yield "GET", path, await api.get(target(path, run) + query, MINE | headers)


async def of_refusals(api: Api, run: Driven) -> AsyncIterator[Given]:
    api.keys.known["no scope"] = replace(api.keys.known["mine"], run_id=run.run_id, scopes=())
    no_scope = {"x-api-key": "no scope"}
    for method, path in (("POST", RUNS), ("GET", RUNS), *OF_A_RUN):
        for headers in ({}, no_scope, *([THEIRS] if path != RUNS else [])):
            yield method, path, await call(api.app, method, target(path, run), headers=headers)
        api.log.down = True
        body = msgspec.json.encode({"prompt": "hi"})
        place = target(path, run)
        yield method, path, await call(api.app, method, place, headers=MINE, body=body)
        api.log.down = False


async def of_probes(api: Api) -> AsyncIterator[Given]:
    for method in ("GET", "HEAD"):
        yield method, "/healthz", await call(api.app, method, "/healthz")
        for chunks, log in ((False, False), (True, False), (False, True)):
            api.chunks.down, api.log.down = chunks, log
            yield method, "/readyz", await call(api.app, method, "/readyz")
        api.chunks.down = api.log.down = False
    yield "GET", "/metrics", await api.get("/metrics", {})


def target(path: str, run: Driven) -> str:
    return path.format(run_id=run.run_id, chat_id=run.chat_id)


async def documented(api: Api) -> dict[str, Any]:
    document: dict[str, Any] = (await api.get("/openapi.json", {})).json
    return document


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """Its components, closed: a field that the document does not list is an error."""
    schemas = {
        name: schema | ({"additionalProperties": False} if "properties" in schema else {})
        for name, schema in document["components"]["schemas"].items()
    }
    return {"schemas": schemas}


def check(document: dict[str, Any], method: str, path: str, answer: Answer) -> None:
    response = document["paths"][path][method.lower()]["responses"][str(answer.status)]
    for name in response.get("headers", {}):
        if name not in MAY_BE_ABSENT:
            assert name.lower() in answer.headers, (method, path, answer.status, name)
    content = response.get("content", {})
    if method == "HEAD" or not content:
        assert not content
        return
    media_type = answer.headers["content-type"].split(";")[0]
    schema = {**content[media_type]["schema"], "components": strict(document)}
    body = answer.json if media_type == "application/json" else answer.body.decode()
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(
        body
    )


MAY_BE_ABSENT = {"Idempotency-Replayed", "ETag", "x-workflow-behind-seconds"}


async def test_every_answer_is_as_the_document_says_and_every_one_it_lists_is_given() -> None:
    """Status, headers, media type, body; a route that is new fails here until it is shown."""
    api = Api()
    document = await documented(api)
    seen = set()
    async for method, path, answer in given(api):
        check(document, method, path, answer)
        seen.add((method.lower(), path, str(answer.status)))
    listed = {
        (method, path, status)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for status in operation["responses"]
    }
    assert seen == {one for one in listed if one[2] not in NOT_SHOWN}


async def test_a_fault_is_as_the_document_says() -> None:
    """500, in the envelope, on a private route and on a public one."""
    api = Api()
    document, run = await documented(api), await api.start()

    async def broken() -> None:
        raise RuntimeError("broken")

    deps = api.app.state[DEPS]
    api.app.state[DEPS] = replaced(deps, ask_store=broken, credentials=None)
    for method, path in (("GET", RUN), ("GET", "/readyz")):
        answer = await call(api.app, method, target(path, run), headers=MINE)
        assert answer.status == 500
        check(document, method, path, answer)


async def test_the_document_has_every_route_and_says_what_may_be_asked_of_it() -> None:
    """Its parameters, its body, and one name for each operation."""
    api = Api()
    document = await documented(api)
    listed = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    served = {
        (method, route.path_format)
        for route in api.app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS"}
    }
    assert served - listed == {("GET", "/openapi.json"), ("GET", "/docs")}
    assert listed <= served
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert len({one["operationId"] for one in operations.values()}) == len(operations)
    asked = {
        key: {parameter["name"] for parameter in operation.get("parameters", [])}
        for key, operation in operations.items()
    }
    assert asked["post", RUNS] == {"Idempotency-Key"}
    assert asked["get", RUNS] == {"status", "chatId", "limit", "cursor", "accountId"}
    assert asked["get", RUN] == {"run_id", "at", "If-None-Match"}
    assert asked["get", f"{RUN}/events"] == {"run_id", "from_version"}
    assert asked["get", f"{RUN}/stream"] == {"run_id", "startIndex", "Last-Event-ID"}
    assert asked["get", "/api/chats/{chat_id}/messages"] == {"chat_id", "partial"}


async def test_no_field_may_be_null_and_every_code_is_listed() -> None:
    """What has no value is absent."""
    document = await documented(Api())
    assert '"null"' not in msgspec.json.encode(document).decode()
    error = document["components"]["schemas"]["ErrorBody"]
    assert set(error["required"]) == {"status", "error", "code"}
    assert len(error["properties"]["code"]["enum"]) == 16


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "hi", "other": 1},
        {"prompt": 7},
        {"prompt": "hi", "artistId": "x"},
        {"messages": [{"role": "user", "parts": []}]},
        {"messages": [{"id": "", "role": "user", "parts": [{"type": "text", "text": "a"}]}]},
        {"messages": [{"id": "m", "role": "robot", "parts": []}]},
        {"prompt": "hi", "model": "x" * 201},
        {"prompt": "hi", "metadata": []},
    ],
)
async def test_what_the_document_forbids_is_refused(body: Mapping[str, Any]) -> None:
    """The other way round there is more: not every rule has a schema."""
    api = Api()
    document = await documented(api)
    schema = {"$ref": "#/components/schemas/RunRequestBody", "components": document["components"]}
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    assert not validator.is_valid(body)
    assert (await api.post(RUNS, body)).status == 400


async def test_references_of_the_document_lead_somewhere() -> None:
    """A generator of clients follows them all."""
    document = await documented(Api())
    text = msgspec.json.encode(document).decode()
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert names <= document["components"]["schemas"].keys()
    assert "RunView" in names
