"""The API process on real PostgreSQL and Valkey, over real HTTP."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest

from runs_api.json_body import BODY_BYTES_MAX
from runs_domain import commands as c
from runs_domain.frames import decode
from runs_domain.ids import RunId
from runs_domain.keys import ServerSecrets
from runs_domain.settings import Secret
from runs_domain.storage.accounts import Accounts, MintedKey
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import open_log
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from runs_domain.storage.redis_pubsub import RedisPubSub
from runs_domain.stream_reader import StreamReader
from tests.support.api_process import SERVER_SECRET, ApiProcess, api_process, environment
from tests.support.driven import Driven
from tests.support.servers import Database
from tests.support.waiting import until
from workers.stack.servers import Servers

PREFIX = "recoup_sk_"
SECRETS = ServerSecrets({1: SERVER_SECRET}, current=1)
RUNS = "/api/chat/runs"
DONE = b"data: [DONE]\n\n"
GRACE_EXCEEDED = "graceful shutdown exceeded"
"""What uvicorn logs when it had to use the backstop."""


@dataclass
class World:
    """An API process, a client of it, and the stores behind it."""

    api: ApiProcess
    http: httpx.AsyncClient
    accounts: Accounts
    key: MintedKey
    admin_url: str
    database_url: str
    redis_url: str

    async def start(self, prompt: str = "Say hello") -> httpx.Response:
        answer = await self.http.post(RUNS, json={"prompt": prompt})
        assert answer.status_code == 202, answer.text
        return answer

    @asynccontextmanager
    async def driven(self, accepted: dict[str, str]) -> AsyncIterator[Driven]:
        """A run that the test drives in a worker's place."""
        redis = PipelinedRedis(self.redis_url)
        pubsub = RedisPubSub(redis)
        async with open_log(Secret(self.database_url), SECRETS, SystemClock()) as log:
            run_id = RunId(UUID(accepted["runId"]))
            yield Driven(log, RedisChunks(redis, pubsub), run_id, accepted)
        await pubsub.close()
        await redis.aclose()


@asynccontextmanager
async def world(database: Database, redis_url: str, place: Path) -> AsyncIterator[World]:
    owner = ReconnectingConnection(Secret(database.admin_url), name="owner")
    accounts = Accounts(owner, SECRETS, PREFIX)
    key = await accounts.mint_key(await accounts.create("person", "Tester"))
    with api_process(environment(database.url, redis_url), place) as api:
        headers = {"x-api-key": key.secret.reveal()}
        async with httpx.AsyncClient(base_url=api.base_url, headers=headers, timeout=15) as http:
            yield World(api, http, accounts, key, database.admin_url, database.url, redis_url)
    await owner.close()


@pytest.fixture
async def here(database: Database, redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world(database, redis_url, tmp_path) as made:
        yield made


def execute(url: str, sql: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(sql.encode())


async def test_a_post_lands_in_the_log_and_in_the_job_stream(here: World) -> None:
    """One event and one job, over the real stores."""
    accepted = (await here.start()).json()
    redis = PipelinedRedis(here.redis_url)
    jobs = RedisJobs(redis)

    async def is_sent() -> bool:
        return not await jobs.missing("run", [accepted["runId"]])

    await until(is_sent)
    await redis.aclose()
    history = (await here.http.get(f"{RUNS}/{accepted['runId']}/events")).json()["data"]
    assert [event["type"] for event in history] == ["run.requested.v1"]


async def test_a_run_is_followed_live_and_read_back_from_the_log(here: World) -> None:
    """The same bytes twice, and the message that they tell."""
    accepted = (await here.start()).json()
    path = f"{RUNS}/{accepted['runId']}"
    async with here.driven(accepted) as run:
        async with here.http.stream("GET", f"/api/chat/{run.chat_id}/stream") as live:
            assert live.headers["content-type"] == "text/event-stream"
            await run.begin()
            recorder = await run.recorder()
            for word in ("one ", "two ", "three"):
                await run.stream_text(recorder, word)
            await run.persist(recorder)
            await run.do(c.CompleteRun(attempt=run.attempt))
            told = await live.aread()
        again = (await here.http.get(f"{path}/stream?startIndex=0")).content
        frames = await run.frames()
    assert told == again
    assert told.endswith(DONE)
    assert [line[6:] for line in told.split(b"\n") if line.startswith(b"data: {")] == frames
    message = StreamReader().read(map(decode, frames)).message
    messages = (await here.http.get(f"/api/chats/{accepted['chatId']}/messages")).json()["data"]
    assert messages[-1] == message
    assert (await here.http.get(path)).json()["status"] == "completed"


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE api_keys SET expires_at = now()",
        "UPDATE api_keys SET revoked_at = now()",
        "DELETE FROM api_keys",
    ],
    ids=["expired", "revoked", "unknown"],
)
async def test_a_key_that_is_no_longer_good_gets_a_401_and_starts_nothing(
    here: World, spoil: str
) -> None:
    """Expired, revoked and unknown are one answer; the change shows at the next request."""
    await here.start()
    execute(here.admin_url, spoil)
    answer = await here.http.post(RUNS, json={"prompt": "hi"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    with psycopg.connect(here.admin_url) as connection:
        (events,) = connection.execute("SELECT count(*) FROM stored_events").fetchone() or (None,)
    assert events == 1


async def test_a_body_without_a_length_is_cut_off_at_the_limit(here: World) -> None:
    """Chunked, so that only reading tells."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 65536 + 2):
            yield b" " * 65536

    answer = await here.http.post(RUNS, content=endless())
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_logs_hold_ids_and_no_content_and_no_key(here: World) -> None:
    """Invariant 6, for what the API prints."""
    canary = "canary-51b2"
    accepted = (await here.start(canary)).json()
    await here.http.get(f"{RUNS}/{accepted['runId']}/events")
    await here.http.get(f"/{canary}?q={canary}")
    await here.http.post(RUNS, json={"prompt": canary, canary: 1})
    await here.http.post(RUNS, content=canary.encode())
    here.api.terminate()
    assert here.api.wait() == 0
    logged = here.api.logged()
    assert accepted["runId"] in logged
    assert canary not in logged
    assert here.key.secret.reveal() not in logged


async def test_sigterm_ends_open_streams_after_a_whole_frame_and_the_process_with_them(
    here: World,
) -> None:
    """An idle one and one in the middle of a run: no [DONE], nothing torn, no backstop."""
    idle, active = (await here.start()).json(), (await here.start()).json()
    async with (
        here.driven(active) as run,
        here.http.stream("GET", f"{RUNS}/{idle['runId']}/stream") as quiet,
        here.http.stream("GET", f"{RUNS}/{active['runId']}/stream") as busy,
    ):
        await run.begin()
        recorder = await run.recorder()
        pieces = busy.aiter_bytes()
        await run.stream_text(recorder, "one")
        body = b""
        while b'"one"' not in body:
            body += await anext(pieces)
        here.api.terminate()
        body += b"".join([piece async for piece in pieces])
        assert await quiet.aread() == b""
    assert body.endswith(b"\n\n")
    assert DONE not in body
    assert here.api.wait() == 0
    assert GRACE_EXCEEDED not in here.api.logged()


async def test_without_postgres_the_answer_is_503_and_it_comes_back_by_itself(
    own_servers: Servers, own_database: Database, tmp_path: Path
) -> None:
    """Never 404, never an empty list (L-08, I-62); no restart of the API is needed."""
    async with world(own_database, own_servers.redis_url, tmp_path) as here:
        accepted = (await here.start()).json()
        own_servers.postgres.stop(at_once=True)
        path = f"{RUNS}/{accepted['runId']}"
        for answer in (
            await here.http.post(RUNS, json={"prompt": "hi"}),
            await here.http.get(path),
            await here.http.get(f"{path}/stream"),
            await here.http.get(f"/api/chats/{accepted['chatId']}/messages"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"] == "1"
        assert (await here.http.get("/readyz")).status_code == 503
        assert (await here.http.get("/healthz")).status_code == 200
        own_servers.postgres.start()

        async def is_back() -> bool:
            return (await here.http.get(path)).status_code == 200

        await until(is_back)
        await here.start()


async def test_without_redis_runs_are_accepted_and_streams_follow_the_log(
    own_servers: Servers, own_database: Database, tmp_path: Path
) -> None:
    """The log is enough; the job is the reconciler's to send."""
    async with world(own_database, own_servers.redis_url, tmp_path) as here:
        await here.start()
        own_servers.valkey.stop()
        accepted = (await here.start()).json()
        ready = await here.http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        async with here.driven(accepted) as run:
            run.sends = False
            path = f"{RUNS}/{run.run_id}/stream"
            async with here.http.stream("GET", path) as live:
                assert live.status_code == 200
                await run.complete("one two")
                body = await live.aread()
        assert body.endswith(DONE)


async def test_the_process_starts_without_its_stores(
    own_servers: Servers, own_database: Database, tmp_path: Path
) -> None:
    """It answers, and says 503 until they are there."""
    async with world(own_database, own_servers.redis_url, tmp_path) as first:
        key = first.key.secret.reveal()
    own_servers.postgres.stop(at_once=True)
    own_servers.valkey.stop()
    place = tmp_path / "again"
    place.mkdir()
    environ = environment(own_database.url, own_servers.redis_url)
    with api_process(environ, place) as api:
        async with httpx.AsyncClient(base_url=api.base_url, timeout=15) as http:
            assert (await http.get("/healthz")).status_code == 200
            answer = await http.post(RUNS, json={"prompt": "hi"}, headers={"x-api-key": key})
            assert answer.status_code == 503


def test_bad_settings_are_one_sentence_and_exit_code_2() -> None:
    """With the names of the variables, without their values."""
    environ = environment("postgresql://x", "redis://x") | {"RUNLEDGER_SECRET": "short"}
    done = subprocess.run(
        [sys.executable, "-m", "runs_api"],
        env=environ,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert b"RUNLEDGER_SECRET" in done.stderr
    assert b"short" not in done.stderr
    assert b"Traceback" not in done.stderr


async def test_one_key_at_two_api_processes_at_once_is_one_run(here: World, tmp_path: Path) -> None:
    """The log's uniqueness is the dedupe, wherever the requests arrive."""
    place = tmp_path / "second"
    place.mkdir()
    headers = {"idempotency-key": "order 7", "x-api-key": here.key.secret.reveal()}
    with api_process(environment(here.database_url, here.redis_url), place) as second:
        async with httpx.AsyncClient(base_url=second.base_url, timeout=15) as other:
            posts = [
                http.post(RUNS, json={"prompt": "hi"}, headers=headers)
                for http in (here.http, other) * 16
            ]
            answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    with psycopg.connect(here.admin_url) as connection:
        (events,) = connection.execute("SELECT count(*) FROM stored_events").fetchone() or (None,)
    assert events == 1


async def test_a_probe_with_head_gets_no_body(here: World) -> None:
    """And the connection is good for the next request."""
    for path in ("/healthz", "/readyz"):
        answer = await here.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await here.http.get(path)).json()["status"] == "ok"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"hello\r\n\r\n", b"400", b"invalid_body"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 5_000_000, b"431", b"too_large"),
    ],
    ids=["no HTTP", "an endless head"],
)
async def test_the_process_bounds_what_comes_before_a_credential(
    here: World, request_bytes: bytes, status: bytes, code: bytes
) -> None:
    """In the envelope, as every error."""
    url = httpx.URL(here.api.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request_bytes)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"content-type: application/json" in answer
    assert b'"code":"' + code + b'"' in answer
