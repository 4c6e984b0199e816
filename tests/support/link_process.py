"""Unix sockets that lead to other unix sockets, until they are told not to: `links` drives it.

`python -m tests.support.link_process NAME=LISTEN=UPSTREAM …`: an order a line on standard input,
`<name> <mode> [<milliseconds>]`, answered with `done`; it ends with its input. Modes:

open       what comes is passed on
cut        whatever is connected is closed now; then open
refuse     the same, and nobody can connect
blackhole  takes everything and passes nothing on, no end of a connection either; new connections
           are accepted. What was swallowed makes a connection useless: `open` closes it
stall      passes nothing on and loses nothing: with `open` it all arrives, late
delay      passes everything on that many milliseconds late, each way
"""

import asyncio
import contextlib
import sys
from pathlib import Path

import uvloop

CHUNK_BYTES = 64 * 1024
TURNS = 5
"""Of the loop, before an answer: whatever had come before the order has been handled then."""


class Link:
    def __init__(self, listen: Path, upstream: Path) -> None:
        self._listen = listen
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._swallowing: set[asyncio.Task[None]] = set()
        """Connections that something of was swallowed."""
        self._mode = "open"
        self._delay_seconds = 0.0
        self._changed = asyncio.Event()

    async def set(self, mode: str, milliseconds: int = 0) -> None:
        self._mode, self._delay_seconds = mode, milliseconds / 1000
        self._changed.set()
        self._changed = asyncio.Event()
        if mode in {"cut", "refuse"}:
            await _close(self._connections)
        elif mode != "blackhole":
            await _close(self._swallowing)
        if mode == "refuse":
            await self._stop_listening()
        elif self._server is None:
            self._server = await asyncio.start_unix_server(self._serve, self._listen)

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._listen.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        others: list[asyncio.StreamWriter] = [writer]
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                while self._mode == "blackhole":  # nothing there has seen this connection
                    self._swallowing.add(task)
                    await self._change()
                if self._mode == "refuse":  # it came just before
                    return
                up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
                others.append(up_writer)
                await self._both_ways(task, (reader, up_writer), (up_reader, writer))
        finally:
            self._connections.discard(task)
            self._swallowing.discard(task)
            for one in others:
                one.transport.abort()

    async def _both_ways(
        self,
        task: asyncio.Task[None],
        *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        pumps = [asyncio.create_task(self._pump(task, *way)) for way in ways]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        connection: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Until one side has closed and the link lets the other side know."""
        while chunk := await reader.read(CHUNK_BYTES):
            if await self._lets_through(connection):
                writer.write(chunk)
                await writer.drain()
        await self._lets_through(connection)

    async def _lets_through(self, connection: asyncio.Task[None]) -> bool:
        """Whether what has come is to be passed on, once it is time."""
        while self._mode == "stall":
            await self._change()
        if self._mode == "blackhole":
            self._swallowing.add(connection)
        if connection in self._swallowing:
            return False
        if self._delay_seconds:
            await asyncio.sleep(self._delay_seconds)  # noqa: TID251 - what a delay is
        return True

    async def _change(self) -> None:
        await self._changed.wait()


async def _close(connections: set[asyncio.Task[None]]) -> None:
    """All of them, at once and without a goodbye."""
    closed = set(connections)
    for task in closed:
        task.cancel()
    if closed:
        await asyncio.wait(closed)


async def _obey(links: dict[str, Link]) -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    for link in links.values():
        await link.set("open")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while line := await orders.readline():
        name, mode, *milliseconds = line.decode().split()
        await links[name].set(mode, *map(int, milliseconds))
        for _ in range(TURNS):
            await asyncio.sleep(0)  # noqa: TID251 - gives way, does not wait
        sys.stdout.write("done\n")
        sys.stdout.flush()


def main() -> None:
    links = {}
    for argument in sys.argv[1:]:
        name, listen, upstream = argument.split("=")
        links[name] = Link(Path(listen), Path(upstream))
    uvloop.run(_obey(links))


if __name__ == "__main__":
    main()
