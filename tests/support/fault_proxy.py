"""Stands between a client and PostgreSQL's unix socket and breaks connections on purpose."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

SOCKET = ".s.PGSQL.5432"
CHUNK_BYTES = 64 * 1024
READY_FOR_QUERY = b"Z\x00\x00\x00\x05I"
"""The end of a reply: the server has committed and is idle."""

Fault = Literal["lose_request", "lose_reply", "leave"]
"""Cut before the server gets the request; after it has answered it, unheard; or, `leave`, when
the server has got it, without waiting for its answer.
"""


async def _cut() -> bool:
    return True


class FaultProxy:
    """`arm` meets the next request of a connection whose application name is `victim`; `poison`
    each of its requests that has these bytes in it.
    """

    def __init__(self, url: str, *, victim: str = "runledger appends") -> None:
        parts = conninfo_to_dict(url)
        self._target = str(Path(str(parts["host"])) / SOCKET)
        self._place = Path(tempfile.mkdtemp(prefix="rl-proxy-"))
        self.url = make_conninfo(url, host=str(self._place))
        self._victim = victim.encode()
        self._armed: Fault | None = None
        self._poison: bytes | None = None
        self._meet: Callable[[], Awaitable[bool]] = _cut
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.faults = 0

    def arm(self, fault: Fault) -> None:
        self._armed = fault

    def poison(self, within: bytes, meet: Callable[[], Awaitable[bool]] = _cut) -> None:
        """`meet` is asked each time: False = let it pass. Without it, the request is cut."""
        self._poison, self._meet = within, meet

    async def listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._place / SOCKET)

    async def refuse(self) -> None:
        """Cut what is open and take no new connection until `listen`."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        (self._place / SOCKET).unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.refuse()
        shutil.rmtree(self._place)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._pump(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        down_reader, down_writer = await asyncio.open_unix_connection(self._target)
        replies = asyncio.create_task(_copy(down_reader, writer))
        try:
            first = await reader.read(CHUNK_BYTES)
            is_victim = self._victim in first
            request = first
            while request:
                # The greeting and the password come before anything that can be a request.
                if is_victim and self._armed and request[:1] in b"PBQ":
                    fault, self._armed = self._armed, None
                    self.faults += 1
                    await self._break(fault, request, replies, down_reader, down_writer)
                    return
                if is_victim and self._poison and self._poison in request and await self._meet():
                    self.faults += 1
                    return
                down_writer.write(request)
                await down_writer.drain()
                request = await reader.read(CHUNK_BYTES)
        finally:
            replies.cancel()
            await asyncio.gather(replies, return_exceptions=True)
            down_writer.close()

    async def _break(
        self,
        fault: Fault,
        request: bytes,
        replies: "asyncio.Task[None]",
        down_reader: asyncio.StreamReader,
        down_writer: asyncio.StreamWriter,
    ) -> None:
        if fault == "lose_request":
            return
        replies.cancel()
        await asyncio.gather(replies, return_exceptions=True)
        down_writer.write(request)
        await down_writer.drain()
        reply = b""
        while fault == "lose_reply" and not reply.endswith(READY_FOR_QUERY):
            chunk = await down_reader.read(CHUNK_BYTES)
            if not chunk:
                return
            reply += chunk


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        pass  # a server that was killed resets its connections: the client hears of it as an end
    writer.close()
