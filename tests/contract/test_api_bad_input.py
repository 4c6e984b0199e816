"""What a POST refuses: a 4xx in the envelope, no event appended, no job sent."""

from typing import Any

import msgspec
import pytest

from runs_api import json_body
from runs_api.json_body import BODY_BYTES_MAX, JSON_DEPTH_MAX
from runs_domain.storage.identity import uuid7
from tests.support.api import MINE, ORGS, OTHER, Api
from tests.support.asgi import Answer, exchange

RUNS = "/api/chat/runs"
SENTENCE_CHARS_MAX = 599
TEXT = {"type": "text", "text": "hi"}


def refused(answer: Answer, status: int, code: str, path: list[Any] | None = None) -> None:
    """The envelope, and nothing beside it."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    body = answer.json
    assert body["status"] == "error"
    assert body["code"] == code
    assert 0 < len(body["error"]) <= SENTENCE_CHARS_MAX
    assert body.get("missing_fields") == path
    assert body.keys() <= {"status", "error", "code", "missing_fields"}


def message(**changes: Any) -> dict[str, Any]:
    return {"id": "m1", "role": "user", "parts": [TEXT]} | changes


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, ["prompt"]),
        ({"prompt": ""}, ["prompt"]),
        ({"prompt": " \n\t "}, ["prompt"]),
        ({"messages": []}, ["prompt"]),
        ({"prompt": "  ", "messages": []}, ["prompt"]),
        ({"prompt": "hi", "messages": [message()]}, ["prompt"]),
        ({"prompt": 7}, ["prompt"]),
        ({"prompt": None}, ["prompt"]),
        ({"messages": "hi"}, ["messages"]),
        ({"messages": {}}, ["messages"]),
        ({"messages": ["hi"]}, ["messages", 0]),
        ({"messages": [message(id="")]}, ["messages", 0, "id"]),
        ({"messages": [message(), message()]}, ["messages", 1, "id"]),
        ({"messages": [message(role="robot")]}, ["messages", 0, "role"]),
        ({"messages": [message(), message(parts=[])]}, ["messages", 1, "parts"]),
        (
            {"messages": [message(parts=[TEXT, {"type": "hologram"}])]},
            ["messages", 0, "parts", 1, "type"],
        ),
        ({"prompt": "hi", "artistId": "not-a-uuid"}, ["artistId"]),
        ({"prompt": "hi", "artistId": 7}, ["artistId"]),
        ({"prompt": "hi", "artistId": "{" + "0" * 34 + "}"}, ["artistId"]),
        ({"prompt": "hi", "artistId": "0190000000007000800000000000d001----"}, ["artistId"]),
        ({"prompt": "hi", "artistId": "01900000-00007000-8000-00000000d001-"}, ["artistId"]),
        ({"prompt": "hi", "accountId": "me"}, ["accountId"]),
        ({"prompt": "hi", "accountId": "0190000000007000800000000000d001----"}, ["accountId"]),
        (
            {"prompt": "hi", "organizationId": "{0190000000007000800000000000d001}--"},
            ["organizationId"],
        ),
        ({"prompt": "hi", "organizationId": None}, ["organizationId"]),
        ({"prompt": "hi", "metadata": []}, ["metadata"]),
        ({"prompt": "hi", "metadata": None}, ["metadata"]),
        ({"prompt": "hi", "model": 7}, ["model"]),
        ({"prompt": "hi", "model": "x" * 201}, ["model"]),
        ({"prompt": "a\0b"}, ["prompt"]),
        ({"prompt": "hi", "metadata": {"a": [{"b": "\0"}]}}, ["metadata", "a", 0, "b"]),
        ({"prompt": "hi", "metadata": {"a\0": 1}}, ["metadata"]),
    ],
)
async def test_a_bad_value_is_named_by_its_path_and_nothing_happens(
    body: dict[str, Any], path: list[Any]
) -> None:
    """The rules of the body, value by value (L-12)."""
    api = Api()
    refused(await api.post(RUNS, body), 400, "invalid_body", path)
    await api.nothing_happened()


@pytest.mark.parametrize("name", ["promt", "taskId", "Prompt", "", "x" * 5000])
async def test_I_64_an_unknown_field_is_refused_by_its_name(name: str) -> None:
    """A field that is dropped in silence is a link that nobody ever finds."""
    api = Api()
    refused(await api.post(RUNS, {"prompt": "hi", name: 1}), 400, "unknown_field", [name[:100]])
    await api.nothing_happened()


async def test_what_sdk_transports_add_is_ignored() -> None:
    """`id`, `trigger` and `messageId` come with every request of theirs."""
    api = Api()
    body = {"id": "x", "trigger": "submit-message", "messageId": None, "messages": [message()]}
    answer = await api.post(RUNS, body)
    assert answer.status == 202


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"prompt=hi",
        b"\xff\xfe",
        b'{"prompt":"\xff"}',
        b'{"prompt":"\\ud800"}',
        b'{"prompt":"hi",}',
        b'{"prompt":NaN}',
        b'{"prompt":1e999}',
        b'{"prompt":"a\x00b"}',
        b"\xef\xbb\xbf{}",
        b"[" * 20_000,
        b'{"metadata":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        b'{"metadata":' + b'{"a":' * 900 + b"1" + b"}" * 901,
        b'{"prompt":"hi","metadata":{"n":' + b"9" * 10_000 + b"}}",
        b'{"prompt":"hi","metadata":'
        + b'{"a":' * JSON_DEPTH_MAX
        + b"1"
        + b"}" * JSON_DEPTH_MAX
        + b"}",
    ],
    ids=lambda raw: repr(raw[:24]),
)
async def test_what_is_no_json_is_a_400(raw: bytes) -> None:
    """Truncated, not UTF-8, nested beyond any use: never a 500."""
    api = Api()
    refused(await api.post(RUNS, raw), 400, "invalid_json")
    await api.nothing_happened()


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"hi"', b"null"])
async def test_json_that_is_no_object_is_a_400(raw: bytes) -> None:
    """The body is an object, whatever is in it."""
    api = Api()
    refused(await api.post(RUNS, raw), 400, "invalid_body")
    await api.nothing_happened()


async def test_a_body_as_deep_as_the_limit_is_taken() -> None:
    """The limit itself is inside."""
    api = Api()
    deep: Any = "x"
    for _ in range(JSON_DEPTH_MAX - 1):
        deep = [deep]
    assert (await api.post(RUNS, {"prompt": "hi", "metadata": {"a": deep[0]}})).status == 202


async def test_a_body_over_the_limit_is_a_413() -> None:
    """A MiB is much for a prompt; one byte more is too much."""
    api = Api()
    prompt = b'{"prompt":"' + b"x" * BODY_BYTES_MAX + b'"}'
    refused(await api.post(RUNS, prompt), 413, "too_large")
    await api.nothing_happened()


async def test_a_body_that_does_not_arrive_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that promises one and sends none holds no request for ever."""
    monkeypatch.setattr(json_body, "BODY_SECONDS_MAX", 0.01)
    api = Api()
    sent = exchange(api.app, "POST", RUNS, headers=MINE)
    sent._asked = True
    status, headers = await sent.head()
    refused(Answer(status, headers, await sent.read_all()), 408, "invalid_body")
    await api.nothing_happened()


async def test_a_body_at_the_limit_is_taken() -> None:
    """Exactly a MiB."""
    api = Api()
    prompt = b'{"prompt":"' + b"x" * (BODY_BYTES_MAX - 13) + b'"}'
    assert len(prompt) == BODY_BYTES_MAX
    assert (await api.post(RUNS, prompt)).status == 202


@pytest.mark.parametrize("model", ["gpt-99", "anthropic/claude-haiku-4.5", "local/none"])
async def test_a_model_that_nobody_serves_is_a_400(model: str) -> None:
    """At the POST, not in a run that fails minutes later."""
    api = Api()
    refused(await api.post(RUNS, {"prompt": "hi", "model": model}), 400, "unknown_model", ["model"])
    await api.nothing_happened()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (MINE, {"accountId": str(OTHER)}),
        (MINE, {"organizationId": str(uuid7())}),
        (ORGS, {"accountId": str(OTHER)}),
        (ORGS, {"organizationId": str(OTHER)}),
    ],
)
async def test_another_account_is_a_403(headers: dict[str, str], body: dict[str, str]) -> None:
    """Only an organisation's key may act for others, and only for its members."""
    api = Api()
    answer = await api.post(RUNS, {"prompt": "hi"} | body, headers)
    refused(answer, 403, "forbidden", list(body))
    await api.nothing_happened()


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "a/b"])
async def test_json_is_parsed_whatever_the_content_type(content_type: str) -> None:
    """A transport of the SDK sends text/plain."""
    api = Api()
    headers = MINE | {"content-type": content_type}
    assert (await api.post(RUNS, {"prompt": "hi"}, headers)).status == 202


async def test_auth_comes_before_the_body() -> None:
    """Who may not post does not learn what the body lacks."""
    api = Api()
    refused(await api.post(RUNS, b"{", {}), 401, "unauthorized")
    await api.nothing_happened()


async def test_an_answer_quotes_no_content() -> None:
    """A refused body may hold anything (invariant 6)."""
    api = Api()
    canary = "canary-7c1f"
    for body in ({"prompt": canary, "artistId": canary}, {"messages": [{"id": canary}]}):
        assert canary.encode() not in (await api.post(RUNS, body)).body
    assert canary.encode() not in (await api.post(RUNS, f'{{"a": {canary}'.encode())).body


async def test_a_refusal_of_the_log_is_told_apart_from_a_fault() -> None:
    """I-26: "somebody else" and "database down" are two answers."""
    api = Api()
    api.log.down = True
    answer = await api.post(RUNS, msgspec.json.encode({"prompt": "hi"}))
    refused(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert not api.jobs.waiting
