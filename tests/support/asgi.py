"""An HTTP client that calls an ASGI application, with streams that are read as they come."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
from litestar import Litestar

READ_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Exchange:
    """One request under way. `read` gives the body's next piece, b"" at its end."""

    def __init__(self, app: Litestar, scope: dict[str, Any], body: bytes) -> None:
        self._body = body
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._asked = False
        self._ended = False
        self.task = asyncio.create_task(app(scope, self._receive, self._send))  # type: ignore[arg-type]

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self._sent.put(dict(message))
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._gone.set()  # as servers do: nothing more is to be received

    async def head(self) -> tuple[int, dict[str, str]]:
        start = await self._message()
        assert start["type"] == "http.response.start"
        return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}

    async def read(self) -> bytes:
        piece = b""
        while not (piece or self._ended):
            message = await self._message()
            piece = message.get("body", b"")
            self._ended = not message.get("more_body", False)
        return piece

    async def _message(self) -> dict[str, Any]:
        waiting = asyncio.ensure_future(self._sent.get())
        async with asyncio.timeout(READ_SECONDS):
            await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await self.task  # raises what went wrong
            return await waiting

    async def read_until(self, end: bytes) -> bytes:
        """The body up to and with `end`."""
        so_far = b""
        while end not in so_far:
            piece = await self.read()
            assert piece, f"the body ended without {end!r}: {so_far!r}"
            so_far += piece
        return so_far

    async def read_all(self) -> bytes:
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def disconnect(self) -> None:
        self._gone.set()
        await asyncio.wait({self.task}, timeout=READ_SECONDS)
        assert self.task.done(), "the application goes on after the client has left"


def exchange(
    app: Litestar,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | list[tuple[str, str]] = {},  # noqa: B006 - never changed
    body: bytes = b"",
) -> Exchange:
    path, _, query = target.partition("?")
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"runledger.test")]
        + [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
        + ([(b"content-length", str(len(body)).encode())] if body else []),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
        "extensions": {},
    }
    return Exchange(app, scope, body)


async def call(app: Litestar, method: str, target: str, **more: Any) -> Answer:
    """The whole answer of a request that ends by itself."""
    sent = exchange(app, method, target, **more)
    status, headers = await sent.head()
    body = await sent.read_all()
    await sent.task
    return Answer(status, headers, body)


@asynccontextmanager
async def opened(
    app: Litestar, method: str, target: str, **more: Any
) -> AsyncIterator[tuple[int, dict[str, str], Exchange]]:
    """A request whose body is read as it comes; the client leaves at the end."""
    sent = exchange(app, method, target, **more)
    status, headers = await sent.head()
    try:
        yield status, headers, sent
    finally:
        await sent.disconnect()
