"""The run's way to the API: the key is added outside, and nothing but /api/ is reached."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runs_domain.errors import StoreUnavailable
from runs_domain.sandbox_port import Sandbox
from tests.support.http_api import StandIn, stand_in
from tests.support.sandboxes import KEY, key, new_spec
from tests.support.waiting import until
from workers.adapters.sandbox_local import LocalSandboxProvider
from workers.adapters.sandbox_local.broker_request import BODY_BYTES_MAX, HEAD_BYTES_MAX
from workers.agent.tools.tool import CALL_VARIABLE

SECONDS = 30.0


@pytest.fixture
async def api() -> AsyncIterator[StandIn]:
    async with stand_in() as started:
        yield started


@pytest.fixture
async def sandbox(api: StandIn, tmp_path: Path) -> AsyncIterator[Sandbox]:
    provider = LocalSandboxProvider(tmp_path, api_base_url=api.base_url)
    opened, _ = await provider.open(new_spec(), key=key)
    yield opened
    await opened.destroy()
    await provider.close()


async def send(sandbox: Sandbox, request: bytes) -> str:
    """Send bytes to the broker from inside, by bash alone; what comes back."""
    script = "exec 3<>/dev/tcp/127.0.0.1/80; cat >&3; cat <&3"
    return (await sandbox.exec(script, stdin=request, timeout_seconds=SECONDS)).stdout


async def test_a_call_of_the_run_reaches_the_api_with_its_key(
    sandbox: Sandbox, api: StandIn
) -> None:
    answer = await send(
        sandbox,
        b"POST /api/chats/1?x=%20y HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
        b"Content-Length: 4\r\n\r\nbody",
    )

    assert answer.startswith("HTTP/1.1 201 Created\r\n")
    assert "x-answer: yes\r\n" in answer
    assert answer.endswith('\r\n\r\n{"ok":true}')
    (seen,) = api.requests
    assert seen.line == "POST /api/chats/1?x=%20y HTTP/1.1"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["content-type"] == "text/plain"
    assert seen.body == b"body"


async def test_credentials_from_inside_are_taken_away(sandbox: Sandbox, api: StandIn) -> None:
    """Also doubled, in other letters, or named as headers of the connection."""
    answer = await send(
        sandbox,
        b"GET /api/x HTTP/1.1\r\nHost: x\r\nAUTHORIZATION: Bearer stolen\r\n"
        b"Authorization: Basic stolen\r\nX-API-Key: stolen\r\nCookie: stolen\r\n"
        b"Proxy-Authorization: stolen\r\nX-Forwarded-For: stolen\r\nForwarded: for=stolen\r\n"
        b"Connection: x-hop\r\nX-Hop: stolen\r\nX-Stays: yes\r\n\r\n",
    )

    (seen,) = api.requests
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert "stolen" not in str(seen)
    assert seen.headers["x-stays"] == "yes"
    assert seen.headers["host"] == api.base_url.removeprefix("http://")
    assert "set-cookie" not in answer


async def test_a_script_can_send_its_calls_id_as_an_idempotency_key(
    sandbox: Sandbox, api: StandIn
) -> None:
    """The broker adds none: it cannot know which of a command's requests are the same."""
    environment = {CALL_VARIABLE: "call-1"}
    request = "POST /api/x HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n"
    for header in ("", f"Idempotency-Key: ${{{CALL_VARIABLE}}}\\r\\n"):
        script = f'exec 3<>/dev/tcp/127.0.0.1/80; printf "{request}{header}\\r\\n" >&3; cat <&3'
        await sandbox.exec(script, env=environment, timeout_seconds=SECONDS)

    without, with_key = (seen.headers.get("idempotency-key") for seen in api.requests)
    assert (without, with_key) == (None, "call-1")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/healthz",
        "/api",
        "/apis/x",
        "/api/../metrics",
        "/api/%2e%2e/metrics",
        "/api/x/..%2f..%2fmetrics",
        "/api/.%2E\\metrics",
        "//other.example/api/x",
        "http://other.example/api/x",
        "/%61pi/x",
        "*",
    ],
)
async def test_only_paths_below_api_are_reached(
    sandbox: Sandbox, api: StandIn, target: str
) -> None:
    answer = await send(sandbox, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert answer.startswith(("HTTP/1.1 403", "HTTP/1.1 400"))
    assert api.requests == []


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /api/x HTTP/1.1\r\nHost: x\r\nA: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n", 431),
        (b"GET /api/x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"GET /api/x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n", 400),
        (b"GET /api/x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
    ],
)
async def test_what_is_not_a_plain_request_is_refused(
    sandbox: Sandbox, api: StandIn, request_bytes: bytes, status: int
) -> None:
    answer = await send(sandbox, request_bytes)

    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert '"status":"error"' in answer
    assert api.requests == []


async def test_a_body_over_the_limit_is_refused(sandbox: Sandbox, api: StandIn) -> None:
    size = BODY_BYTES_MAX + 1
    script = (
        "exec 3<>/dev/tcp/127.0.0.1/80;"
        f" printf 'POST /api/x HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {size}\\r\\n\\r\\n' >&3;"
        f" head -c {size} /dev/zero >&3; head -1 <&3"
    )

    result = await sandbox.exec(script, timeout_seconds=SECONDS)

    assert result.stdout == "HTTP/1.1 413 \r\n"
    assert api.requests == []


async def test_a_second_request_behind_the_first_is_never_looked_at(
    sandbox: Sandbox, api: StandIn
) -> None:
    one = b"GET /api/one HTTP/1.1\r\nHost: x\r\n\r\n"

    await send(sandbox, one + b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")

    assert [seen.line for seen in api.requests] == ["GET /api/one HTTP/1.1"]


async def test_a_chunked_body_arrives_whole(sandbox: Sandbox, api: StandIn) -> None:
    await send(
        sandbox,
        b"POST /api/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )

    assert api.requests[0].body == b"abcde"


async def test_a_stream_comes_through_as_it_is_sent(sandbox: Sandbox, api: StandIn) -> None:
    heard: list[bytes] = []
    script = (
        "exec 3<>/dev/tcp/127.0.0.1/80;"
        " printf 'GET /api/stream HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; cat <&3"
    )

    def on_output(_name: str, piece: bytes) -> None:
        heard.append(piece)
        if b"data: first" in b"".join(heard):
            api.release.set()

    result = await sandbox.exec(script, timeout_seconds=SECONDS, on_output=on_output)

    assert result.stdout.endswith("data: first\n\ndata: second\n\n")


async def test_an_api_that_does_not_answer_is_a_503(tmp_path: Path) -> None:
    provider = LocalSandboxProvider(tmp_path, api_base_url="http://127.0.0.1:1")
    lonely, _ = await provider.open(new_spec(), key=key)

    answer = await send(lonely, b"GET /api/x HTTP/1.1\r\nHost: x\r\n\r\n")

    assert answer.startswith("HTTP/1.1 503")
    assert '"code":"unavailable"' in answer
    await lonely.destroy()
    await provider.close()


async def test_a_key_that_cannot_be_had_is_a_503_and_no_request(
    api: StandIn, tmp_path: Path
) -> None:
    async def no_key() -> str:
        raise StoreUnavailable

    provider = LocalSandboxProvider(tmp_path, api_base_url=api.base_url)
    sandbox, _ = await provider.open(new_spec(), key=no_key)

    answer = await send(sandbox, b"GET /api/x HTTP/1.1\r\nHost: x\r\n\r\n")

    assert answer.startswith("HTTP/1.1 503")
    assert api.requests == []
    await sandbox.destroy()
    await provider.close()


async def test_two_runs_of_one_sandbox_call_with_their_own_keys(
    api: StandIn, tmp_path: Path
) -> None:
    provider = LocalSandboxProvider(tmp_path, api_base_url=api.base_url)
    spec = new_spec()

    async def of(name: str) -> Sandbox:
        async def own_key() -> str:
            return f"key-of-{name}"

        again = new_spec(spec.name, session=spec.session_id)
        return (await provider.open(again, key=own_key))[0]

    for sandbox in (await of("one"), await of("two")):
        await send(sandbox, b"GET /api/x HTTP/1.1\r\nHost: x\r\n\r\n")

    sent = [seen.headers["authorization"] for seen in api.requests]
    assert sent == ["Bearer key-of-one", "Bearer key-of-two"]
    await sandbox.destroy()
    await provider.close()


async def test_an_api_that_breaks_off_is_never_taken_for_a_whole_answer(
    sandbox: Sandbox,
) -> None:
    script = (
        "exec 3<>/dev/tcp/127.0.0.1/80;"
        " printf 'GET /api/broken HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; cat <&3"
    )

    result = await sandbox.exec(script, timeout_seconds=SECONDS)

    assert "reset by peer" in result.stderr


async def test_a_run_that_is_let_go_leaves_no_request_behind(
    sandbox: Sandbox, api: StandIn
) -> None:
    script = (
        "exec 3<>/dev/tcp/127.0.0.1/80;"
        " printf 'GET /api/stream HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; head -1 <&3"
    )
    await sandbox.exec(script, timeout_seconds=SECONDS)
    await until(lambda: api.requests)

    await sandbox.detach()

    await until(api.hung_up.is_set)
