"""What a client without any credential can make a connection do, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState

from runs_api.protocol import HEAD_BYTES_MAX, BoundedProtocol
from tests.support.waiting import until

OPEN_MAX = 3
SOON = 0.05
READ_SECONDS = 10.0
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        assert self.headers["connection"] == "close"
        envelope = msgspec.json.decode(self.body)
        assert envelope.keys() == {"status", "error", "code"}
        return envelope["code"]


class Client:
    """One connection, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> Answer:
        async with asyncio.timeout(READ_SECONDS):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split(" ")[1]), headers, body)

    async def rest(self) -> bytes:
        """Up to where the server hangs up."""
        async with asyncio.timeout(READ_SECONDS):
            return await self.reader.read()


@dataclass
class Server:
    port: int
    served: list[str] = field(default_factory=list)
    protocols: list[BoundedProtocol] = field(default_factory=list)
    finish: asyncio.Event = field(default_factory=asyncio.Event)
    """`/slow` sends "begun" and waits for this."""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.served.append(scope["path"])
        body = b"ok"
        head = [(b"content-length", b"10" if scope["path"] == "/slow" else b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        if scope["path"] == "/slow":
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            await self.finish.wait()
            body = b"ended"
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(**limits: float) -> AsyncIterator[Server]:
    class Limited(BoundedProtocol):
        connections_max: ClassVar[int] = OPEN_MAX
        head_seconds_max: ClassVar[float] = limits.get("head_seconds_max", 60.0)

    server = Server(0)
    config = uvicorn.Config(server.app, interface="asgi3", log_config=None, lifespan="off")
    state = ServerState()
    config.load()

    def protocol() -> BoundedProtocol:
        server.protocols.append(Limited(config, state, {}))
        return server.protocols[-1]

    listening = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.finish.set()
        listening.close()
        await until(lambda: not state.tasks)
        for connection in tuple(state.connections):
            connection.transport.close()
        await until(lambda: not state.connections)


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/7.7\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
    ids=repr,
)
async def test_what_is_no_http_is_a_400_in_the_envelope(data: bytes) -> None:
    """And it never reaches the application."""
    async with serving() as server, server.client() as client:
        client.send(data)
        answer = await client.answer()
        assert (answer.status, answer.code) == (400, "invalid_body")
        assert await client.rest() == b""
        assert server.served == []


@pytest.mark.parametrize(
    "head",
    [
        GET + b"x: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n",
        GET + b"a: b\r\n" * (HEAD_BYTES_MAX // 6 + 1) + b"\r\n",
        b"GET /" + b"a" * HEAD_BYTES_MAX + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["one header", "many headers", "target"],
)
async def test_a_head_over_the_limit_is_a_431_in_the_envelope(head: bytes) -> None:
    """Before anybody asks for a credential."""
    async with serving() as server, server.client() as client:
        client.send(head)
        answer = await client.answer()
        assert (answer.status, answer.code) == (431, "too_large")
        assert await client.rest() == b""
        assert server.served == []


async def test_a_head_without_an_end_is_cut_off() -> None:
    """One value that goes on for ever: the parser would keep all of it."""
    async with serving() as server, server.client() as client:
        client.send(GET + b"x: " + b"a" * (64 * HEAD_BYTES_MAX))
        answer = await client.answer()
        assert (answer.status, answer.code) == (431, "too_large")
        assert server.protocols[0]._head_bytes < 32 * HEAD_BYTES_MAX


async def test_a_head_at_the_limit_is_served_in_one_piece_or_many() -> None:
    """The limit itself is inside."""
    extra = HEAD_BYTES_MAX - len(b"/host: x\r\nx: \r\n")
    head = GET + b"x: " + b"a" * extra + b"\r\n\r\n"
    async with serving() as server, server.client() as client:
        client.send(head)
        assert (await client.answer()).status == 200
        for start in range(0, len(head), 1000):
            client.send(head[start : start + 1000])
            await client.writer.drain()
        assert (await client.answer()).status == 200
        assert server.served == ["/", "/"]


async def test_a_connection_on_which_nothing_is_asked_is_closed() -> None:
    """Without a word: nobody asked anything."""
    async with serving(head_seconds_max=SOON) as server, server.client() as client:
        assert await client.rest() == b""


@pytest.mark.parametrize("before", [0, 1])
async def test_a_head_that_does_not_arrive_in_time_is_a_408(before: int) -> None:
    """The first on a connection, and a later one."""
    async with serving(head_seconds_max=SOON) as server, server.client() as client:
        for _ in range(before):
            client.send(GET + b"\r\n")
            assert (await client.answer()).status == 200
        client.send(GET)
        answer = await client.answer()
        assert (answer.status, answer.code) == (408, "invalid_body")
        assert await client.rest() == b""
        assert len(server.served) == before


async def test_an_answer_may_take_longer_than_a_head() -> None:
    """A stream goes on for hours: the deadline is the head's alone."""
    async with serving() as server, server.client() as client:
        client.send(GET.replace(b"/ ", b"/slow ") + b"\r\n")
        assert (await client.reader.readuntil(b"begun")).endswith(b"begun")
        (protocol,) = server.protocols
        assert protocol._deadline is None
        client.send(GET)  # half of the next request, early
        await until(lambda: protocol._in_head)
        assert protocol._deadline is None
        server.finish.set()
        assert await client.reader.readexactly(5) == b"ended"
        client.send(b"\r\n")
        assert (await client.answer()).body == b"ok"


async def test_garbage_does_not_get_into_the_answer_before_it() -> None:
    """A 400 in the middle of a stream would be read as part of it."""
    async with serving() as server, server.client() as client:
        client.send(GET.replace(b"/ ", b"/slow ") + b"\r\n")
        await client.reader.readuntil(b"begun")
        client.send(b"hello\r\n\r\n")
        assert await client.rest() == b""


async def test_more_connections_than_the_limit_are_refused_until_one_is_closed() -> None:
    """503, and when to come back."""
    async with serving() as server:
        clients = [server.client() for _ in range(OPEN_MAX)]
        opened = [await client.__aenter__() for client in clients]
        for client in opened:
            client.send(GET + b"\r\n")
            assert (await client.answer()).status == 200
        async with server.client() as late:
            answer = await late.answer()
            assert (answer.status, answer.code) == (503, "unavailable")
            assert answer.headers["retry-after"] == "1"
            assert await late.rest() == b""
        await clients[0].__aexit__(None, None, None)
        await until(lambda: len(server.protocols[0].connections) < OPEN_MAX)
        async with server.client() as next_one:
            next_one.send(GET + b"\r\n")
            assert (await next_one.answer()).status == 200
        for client in clients[1:]:
            await client.__aexit__(None, None, None)
