"""A small HTTP server that stands in for the API: it notes each request and answers by path."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass
class Seen:
    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class StandIn:
    base_url: str = ""
    requests: list[Seen] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """`/api/stream` sends its first frame, waits for this, and sends its second."""
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in head[1:] if line]
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(Seen(head[0], headers, body))
        if "/api/stream" in head[0]:
            await self._stream(reader, writer)
        elif "/api/broken" in head[0]:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf")
        else:
            text = b'{"ok":true}'
            writer.write(
                b"HTTP/1.1 201 Created\r\nx-answer: yes\r\nset-cookie: session=1\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text)
            )
        writer.close()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        writer.write(head + b"data: first\n\n")
        gone = asyncio.create_task(reader.read())
        gone.add_done_callback(lambda _: self.hung_up.set())
        released = asyncio.create_task(self.release.wait())
        await asyncio.wait({gone, released}, return_when=asyncio.FIRST_COMPLETED)
        for task in (gone, released):
            task.cancel()
        writer.write(b"data: second\n\n")


@contextlib.asynccontextmanager
async def stand_in() -> AsyncIterator[StandIn]:
    api = StandIn()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield api
    api.release.set()
    server.close()
    await server.wait_closed()
