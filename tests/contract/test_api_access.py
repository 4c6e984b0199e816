"""Who gets in, and what is not theirs does not exist."""

from collections.abc import Iterator

import pytest
from litestar.handlers import get
from litestar.routes import HTTPRoute
from msgspec.structs import replace

from runs_api.app import HANDLERS, refuse_unspoken
from runs_domain.storage.identity import uuid7
from tests.support.api import MEMBER, MEMBERS, MINE, ORG, ORGS, THEIRS, Api
from tests.support.asgi import Answer, call
from tests.support.driven import Driven

PUBLIC = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"}
PRIVATE = {
    ("POST", "/api/chat/runs"),
    ("GET", "/api/chat/runs"),
    ("GET", "/api/chat/runs/{run_id}"),
    ("POST", "/api/chat/runs/{run_id}/cancel"),
    ("GET", "/api/chat/runs/{run_id}/events"),
    ("GET", "/api/chat/runs/{run_id}/stream"),
    ("GET", "/api/chat/{chat_id}/stream"),
    ("GET", "/api/chats/{chat_id}/messages"),
}
OF_A_RUN = sorted((method, path) for method, path in PRIVATE if path != "/api/chat/runs")


def routes(api: Api) -> Iterator[tuple[str, str]]:
    for route in api.app.routes:
        assert isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS"}:
            yield method, route.path_format


def target(path: str, run: Driven) -> str:
    return path.format(run_id=run.run_id, chat_id=run.chat_id)


def unauthorized(answer: Answer) -> None:
    assert (answer.status, answer.json["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_invariant_9_every_route_but_the_public_ones_needs_a_credential() -> None:
    """Walks the router: a new route fails here until it is listed."""
    api = Api()
    assert {(method, path) for method, path in routes(api) if path not in PUBLIC} == PRIVATE
    run = await api.start()
    for method, path in routes(api):
        answer = await call(api.app, method, target(path, run))
        if path in PUBLIC:
            assert answer.status == 200
        else:
            unauthorized(answer)


def test_invariant_9_a_route_that_does_not_say_who_may_use_it_makes_no_application() -> None:
    """Forgetting the word is an error at the start, not an open door."""

    @get("/api/secrets")
    async def forgotten() -> None: ...

    with pytest.raises(ValueError, match="/api/secrets"):
        refuse_unspoken((*HANDLERS, forgotten))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "unknown"},
        {"authorization": "mine"},
        {"authorization": "Basic mine"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer unknown"},
        {"x-api-key": "mine", "authorization": "Bearer mine"},
        {"x-api-key": "mine", "authorization": ""},
        [("x-api-key", "mine"), ("x-api-key", "mine")],
        [("authorization", "Bearer mine"), ("authorization", "Bearer theirs")],
    ],
)
async def test_anything_but_one_good_credential_is_a_401(
    headers: dict[str, str] | list[tuple[str, str]],
) -> None:
    """None, two, a wrong one, a wrong scheme: one answer."""
    api = Api()
    unauthorized(await api.post("/api/chat/runs", {"prompt": "hi"}, headers))
    await api.nothing_happened()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_bearer_key_is_as_good_as_x_api_key(scheme: str) -> None:
    """The scheme's case does not matter."""
    api = Api()
    await api.start({"authorization": f"{scheme} mine"})


async def test_a_revoked_key_gets_a_401_at_the_next_request() -> None:
    """Nothing is kept from the request before (invariant 5)."""
    api = Api()
    run = await api.start()
    del api.keys.known["mine"]
    unauthorized(await api.get(run.path))


async def test_doubt_about_a_key_is_no_401() -> None:
    """Without the store nobody knows: 503, and the client tries again."""
    api = Api()
    api.keys.down = True
    answer = await api.post("/api/chat/runs", {"prompt": "hi"})
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(("method", "path"), OF_A_RUN)
async def test_L_01_what_is_foreign_is_unknown_to_the_byte(method: str, path: str) -> None:
    """I-63: unknown, malformed and somebody else's are the same 404 (invariant 9)."""
    api = Api()
    run = await api.start()
    appends = api.log.appends
    answers = [
        await call(api.app, method, target(path, run), headers=THEIRS),
        *[
            await call(api.app, method, path.format(run_id=odd, chat_id=odd), headers=MINE)
            for odd in (uuid7(), uuid7().hex, "x", "%00", "a" * 300, "0" * 36, "'")
        ],
    ]
    assert {(answer.status, answer.body) for answer in answers} == {
        (404, b'{"status":"error","error":"Not found","code":"not_found"}')
    }
    assert len({frozenset(answer.headers) for answer in answers}) == 1
    assert api.log.appends == appends


@pytest.mark.parametrize(("method", "path"), OF_A_RUN)
async def test_an_organisation_sees_its_members_runs_and_no_others(method: str, path: str) -> None:
    """And a member does not see the organisation's."""
    api = Api()
    of_member, of_org, of_me = (
        await api.start(MEMBERS),
        await api.start(ORGS),
        await api.start(MINE),
    )
    for run in (of_member, of_org, of_me):
        await run.complete()
    seen = await call(api.app, method, target(path, of_member), headers=ORGS)
    assert seen.status in {200, 204}
    assert (await call(api.app, method, target(path, of_org), headers=MEMBERS)).status == 404
    assert (await call(api.app, method, target(path, of_me), headers=ORGS)).status == 404
    api.keys.members.clear()
    assert (await call(api.app, method, target(path, of_member), headers=ORGS)).status == 404


async def test_I_37_an_organisation_starts_and_cancels_a_members_run_by_one_rule() -> None:
    """Both the key and the account that it acts for stand in the history."""
    api = Api()
    run = await api.start(ORGS, accountId=str(MEMBER))
    assert (await api.post(f"{run.path}/cancel", headers=ORGS)).status == 202
    history = (await api.get(f"{run.path}/events", MEMBERS)).json["data"]
    assert {event["subject"] for event in history} == {str(MEMBER)}
    assert {event["actor"] for event in history} == {f"org:{ORG}"}


async def test_a_member_may_name_its_organisation_and_an_account_itself() -> None:
    """One's own id is always allowed."""
    api = Api()
    run = await api.start(MEMBERS, accountId=str(MEMBER), organizationId=str(ORG))
    data = (await api.get(f"{run.path}/events", MEMBERS)).json["data"][0]["data"]
    assert (data["accountId"], data["organizationId"]) == (str(MEMBER), str(ORG))


async def test_a_runs_key_reads_its_own_run_and_nothing_else() -> None:
    """One account, one run, and the routes that its scopes name."""
    api = Api()
    run, another = await api.start(), await api.start()
    api.keys.known["run"] = replace(
        api.keys.known["mine"], run_id=run.run_id, scopes=("runs:read",), ephemeral=True
    )
    key = {"authorization": "Bearer run"}
    assert (await api.get(run.path, key)).status == 200
    assert (await api.get(f"/api/chats/{run.chat_id}/messages", key)).status == 200
    assert (await api.get(another.path, key)).status == 404
    assert (await api.get(f"/api/chats/{another.chat_id}/messages", key)).status == 404
    assert (await api.get(f"/api/chat/{another.chat_id}/stream", key)).status == 404
    for forbidden in (
        await api.post("/api/chat/runs", {"prompt": "hi"}, key),
        await api.post(f"{run.path}/cancel", headers=key),
    ):
        assert (forbidden.status, forbidden.json["code"]) == (403, "forbidden")


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.mark.parametrize("method", METHODS)
async def test_a_runs_key_gets_a_clear_answer_to_every_method_on_every_route(method: str) -> None:
    """Also to those that the framework adds by itself: they need no scope, so they are refused."""
    api = Api()
    run = await api.start()
    await run.complete()
    api.keys.known["run"] = replace(
        api.keys.known["mine"], run_id=run.run_id, scopes=("runs:read", "runs:write")
    )
    for route in api.app.routes:
        assert isinstance(route, HTTPRoute)
        place = target(route.path_format, run)
        answer = await call(api.app, method, place, headers={"x-api-key": "run"})
        if method == "OPTIONS":
            assert (answer.status, answer.json["code"]) == (403, "forbidden")
        elif method not in route.methods:
            assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")
        else:
            assert answer.status in {200, 202, 204, 400}, (method, place, answer.body)


async def test_a_runs_key_with_the_write_scope_acts_for_its_own_account_only() -> None:
    """An organisation's run does not act for the members."""
    api = Api()
    run = await api.start(ORGS)
    api.keys.known["run"] = replace(
        api.keys.known["org"], run_id=run.run_id, scopes=("runs:write",), ephemeral=True
    )
    key = {"authorization": "Bearer run"}
    assert (await api.post("/api/chat/runs", {"prompt": "hi"}, key)).status == 202
    answer = await api.post("/api/chat/runs", {"prompt": "hi", "accountId": str(MEMBER)}, key)
    assert answer.status == 403


async def test_unknown_routes_and_methods_answer_in_the_envelope() -> None:
    """The framework's own errors are ours too."""
    api = Api()
    for method, path, status, code in [
        ("GET", "/", 404, "not_found"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("PATCH", "/api/chat/runs", 405, "method_not_allowed"),
        ("DELETE", "/api/chat/runs", 405, "method_not_allowed"),
        ("PUT", f"/api/chat/runs/{uuid7()}", 405, "method_not_allowed"),
    ]:
        answer = await call(api.app, method, path, headers=MINE)
        assert (answer.status, answer.json["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"]
