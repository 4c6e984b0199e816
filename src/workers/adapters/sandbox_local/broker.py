"""The run's way to the API: http://127.0.0.1/api/… inside leads here, in the worker.

The worker adds the run's key to each request and takes away whatever credential the sandbox sent,
so the key is never inside. One request a connection: nothing can be smuggled behind another.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import httpx
import msgspec

from runs_domain.errors import RunledgerError
from workers.adapters.sandbox_local.broker_request import (
    HEAD_BYTES_MAX,
    BadRequest,
    Request,
    read_request,
)
from workers.adapters.sandbox_local.broker_rules import Headers, is_allowed, passed_on

Key = Callable[[], Awaitable[str]]

CONNECTIONS_MAX: Final = 32
"""At once, for one run."""
TIMEOUTS: Final = httpx.Timeout(connect=5.0, read=60.0, write=30.0, pool=5.0)
"""Seconds. `read` is the longest silence of the API, whose streams speak every 15 s."""
WRITE_SECONDS: Final = 30.0
"""How long a command may leave an answer unread."""


def new_client() -> httpx.AsyncClient:
    """For all brokers of a worker; no proxy or certificate of the environment takes part."""
    return httpx.AsyncClient(timeout=TIMEOUTS, trust_env=False, follow_redirects=False)


class Broker:
    """Serves one run's listener until `close`."""

    def __init__(self, api_base_url: str, key: Key | None, client: httpx.AsyncClient) -> None:
        self._base = httpx.URL(api_base_url) if api_base_url else None
        self.key = key
        self._client = client
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=HEAD_BYTES_MAX)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):  # the command went away
                await self._answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) > CONNECTIONS_MAX:
            await _refuse(writer, 503, "unavailable", "Too many requests at once")
            return
        try:
            request = await read_request(reader, writer)
        except BadRequest as problem:
            await _refuse(writer, problem.status, problem.code, str(problem))
            return
        if request is None:
            return
        if not is_allowed(request.target):
            await _refuse(writer, 403, "forbidden", "Only paths below /api/ can be reached")
            return
        started = False
        try:
            async with self._forwarded(request) as response:
                started = True
                await _relay(response, writer)
        except (httpx.HTTPError, httpx.InvalidURL, RunledgerError):
            if started:
                _break_off(writer)
            else:
                await _refuse(writer, 503, "unavailable", "The API cannot be reached now")

    @contextlib.asynccontextmanager
    async def _forwarded(self, request: Request) -> AsyncIterator[httpx.Response]:
        if self._base is None or self.key is None:
            raise httpx.ConnectError("this sandbox has no API")
        key = await self.key()
        outer = httpx.Request(
            request.method,
            self._base.copy_with(raw_path=self._base.raw_path.rstrip(b"/") + request.target),
            headers=[
                *passed_on(request.headers),
                (b"authorization", b"Bearer " + key.encode("ascii")),
            ],
            content=request.body or None,
        )
        response = await self._client.send(outer, stream=True)
        try:
            yield response
        finally:
            await response.aclose()


async def _relay(response: httpx.Response, writer: asyncio.StreamWriter) -> None:
    """The answer as it comes, undecoded; its end is the connection's."""
    headers = passed_on(response.headers.raw)
    length = response.headers.get("content-length")
    if length is not None:
        headers.append((b"content-length", length.encode("ascii")))
    _write_head(writer, response.status_code, response.reason_phrase, headers)
    async for piece in response.aiter_raw():
        writer.write(piece)
        async with asyncio.timeout(WRITE_SECONDS):
            await writer.drain()


async def _refuse(writer: asyncio.StreamWriter, status: int, code: str, sentence: str) -> None:
    body = msgspec.json.encode({"status": "error", "error": sentence, "code": code})
    length = str(len(body)).encode("ascii")
    _write_head(
        writer, status, "", [(b"content-type", b"application/json"), (b"content-length", length)]
    )
    writer.write(body)
    async with asyncio.timeout(WRITE_SECONDS):
        await writer.drain()


def _break_off(writer: asyncio.StreamWriter) -> None:
    """End with a reset: a plain end would look like the end of the whole answer."""
    now = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
    writer.transport.abort()


def _write_head(writer: asyncio.StreamWriter, status: int, reason: str, headers: Headers) -> None:
    lines = [f"HTTP/1.1 {status} {reason}".encode("latin-1", "replace")]
    lines += [name + b": " + value for name, value in headers]
    lines += [b"connection: close", b"", b""]
    writer.write(b"\r\n".join(lines))
