"""A small OpenAI-compatible server over real sockets: it plays one prepared reply a request.

    async with model_server() as server:
        server.reply(text("Hel"), text("lo"), finish("stop"), DONE)
        server.reply(status=429, body={"error": {"message": "slow down"}})

A reply's steps are chunks, raw text, an event to wait for, or CUT. What was asked stands in
`requests`; `left` is set when a client goes while its reply is not over.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import msgspec

Json = dict[str, Any]


class Cut(Enum):
    """The connection breaks in the middle of the reply."""

    CUT = "cut"


CUT: Final = Cut.CUT
DONE: Final = "data: [DONE]\n\n"
Step = Json | str | asyncio.Event | Cut


@dataclass
class Reply:
    steps: tuple[Step, ...]
    status: int
    headers: dict[str, str]
    body: object


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: Json


@dataclass
class ModelServer:
    base_url: str = ""
    requests: list[Received] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _replies: deque[Reply] = field(default_factory=deque)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def reply(
        self,
        *steps: Step,
        status: int = 200,
        headers: dict[str, str] | None = None,
        body: object = None,
    ) -> None:
        """What the next request is answered with: a stream of `steps`, or a JSON `body`."""
        self._replies.append(Reply(steps, status, headers or {}, body))

    async def answer(self, asked: Received) -> Reply:
        """Other servers may look at what was asked."""
        return self._replies.popleft()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            asked = await _receive(reader)
            self.requests.append(asked)
            await self._play(await self.answer(asked), reader, writer)
        except ConnectionError:
            self.left.set()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _play(
        self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        streams = reply.body is None
        kind = "text/event-stream" if streams else "application/json"
        fields = {"content-type": kind, "connection": "close", **reply.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {reply.status} Reply\r\n{head}".encode())
        if not streams:
            body = msgspec.json.encode(reply.body)
            writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            return
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        gone = asyncio.create_task(reader.read())
        try:
            for step in reply.steps:
                if not await self._step(step, gone, writer):
                    return
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            gone.cancel()

    async def _step(
        self, step: Step, gone: asyncio.Task[bytes], writer: asyncio.StreamWriter
    ) -> bool:
        """False when the reply ends here."""
        if isinstance(step, asyncio.Event):
            ready = asyncio.create_task(step.wait())
            await asyncio.wait({ready, gone}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if not step.is_set():
                self.left.set()
            return step.is_set()
        if step is CUT:
            writer.transport.abort()
            return False
        data = step if isinstance(step, str) else f"data: {msgspec.json.encode(step).decode()}\n\n"
        raw = data.encode()
        writer.write(b"%x\r\n" % len(raw) + raw + b"\r\n")
        await writer.drain()
        return True

    async def stop(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def model_server() -> AsyncIterator[ModelServer]:
    server = ModelServer()
    async with listening_at(server):
        yield server


@asynccontextmanager
async def listening_at(server: ModelServer) -> AsyncIterator[None]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()[:2]
    server.base_url = f"http://{host}:{port}/v1"
    try:
        yield
    finally:
        listening.close()
        await server.stop()
        await listening.wait_closed()


async def _receive(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    request, *lines = head.strip().split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers["content-length"]))
    return Received(request.split(" ")[1], headers, msgspec.json.decode(body))


def chunk(delta: Json | None = None, finish_reason: str | None = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more}


def text(content: str) -> Json:
    return chunk({"content": content})


def call(index: int, arguments: str, *, name: str | None = None, id: str | None = None) -> Json:  # noqa: A002 - the wire's word
    function = {"arguments": arguments} | ({"name": name} if name else {})
    piece = {"index": index, "function": function} | ({"id": id} if id else {})
    return chunk({"tool_calls": [piece]})


def finish(reason: str) -> Json:
    return chunk({}, reason)


def usage(prompt: int, completion: int, **more: Any) -> Json:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"id": "c", "choices": [], "usage": counts | more}
