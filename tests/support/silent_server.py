"""A server that takes whatever Redis commands come and answers only when it is told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote


class SilentServer:
    def __init__(self, path: Path) -> None:
        self.url = f"unix://{quote(str(path))}"
        self.writes: list[bytes] = []
        """What came, one item a read."""
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def connections(self) -> int:
        return len(self._writers)

    def answer(self, data: bytes) -> None:
        """On the newest connection."""
        self._writers[-1].write(data)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while data := await reader.read(1 << 20):
            self.writes.append(data)
        writer.close()


@asynccontextmanager
async def silent_server(directory: Path) -> AsyncIterator[SilentServer]:
    path = directory / "silent.sock"
    silent = SilentServer(path)
    server = await asyncio.start_unix_server(silent.serve, path)
    async with server:
        yield silent
