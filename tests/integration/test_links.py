"""The lines that chaos cuts do what they say: a test is only as good as its faults."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.links import LINKS, POSTGRES_SOCKET, Links
from tests.support.waiting import until

NAME = "worker-redis"


class Echo:
    """A server that says back what it hears, and notes it."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(100):
                self.heard += chunk
                writer.write(chunk)
        except ConnectionError:
            pass
        finally:
            self.lost += 1
            writer.close()


@pytest.fixture
async def echo(short_path: Path) -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_unix_server(echo.serve, short_path / "redis")
    yield echo
    server.close()


@pytest.fixture
def links(short_path: Path, echo: Echo) -> Iterator[Links]:  # noqa: ARG001 - it listens first
    links = Links(short_path / "links", postgres=short_path, redis=short_path / "redis")
    yield links
    links.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def hears(self) -> bytes:
        """Empty when the connection was closed."""
        async with asyncio.timeout(5):
            try:
                return await self.reader.read(100)
            except ConnectionError:
                return b""


Connect = Callable[[], Awaitable[Client]]


@pytest.fixture
async def connect(links: Links, short_path: Path) -> AsyncIterator[Connect]:  # noqa: ARG001 - open
    writers = []

    async def connect() -> Client:
        path = short_path / "links" / NAME / "redis"
        reader, writer = await asyncio.open_unix_connection(path)
        writers.append(writer)
        return Client(reader, writer)

    yield connect
    for writer in writers:
        writer.close()


async def test_an_open_line_passes_everything_on(connect: Connect) -> None:
    client = await connect()
    await client.says(b"hello")
    assert await client.hears() == b"hello"


async def test_a_cut_closes_what_is_connected_and_nothing_else(
    connect: Connect, links: Links, echo: Echo
) -> None:
    client = await connect()
    await client.says(b"one")
    assert await client.hears() == b"one"
    links.set(NAME, "cut")
    assert await client.hears() == b""
    await until(lambda: echo.lost == 1)
    client = await connect()
    await client.says(b"two")
    assert await client.hears() == b"two"


async def test_a_refusing_line_takes_nobody_until_it_is_open(
    connect: Connect, links: Links
) -> None:
    client = await connect()
    await client.says(b"one")
    assert await client.hears() == b"one"  # the line has taken it, not the kernel alone
    links.set(NAME, "refuse")
    assert await client.hears() == b""
    with pytest.raises(OSError, match=r"No such file|refused"):
        await connect()
    links.heal()
    client = await connect()
    await client.says(b"again")
    assert await client.hears() == b"again"


async def test_a_blackhole_swallows_and_neither_side_learns_of_the_other(
    connect: Connect, links: Links, echo: Echo
) -> None:
    old = await connect()
    await old.says(b"one")
    assert await old.hears() == b"one"
    leaving = await connect()
    await leaving.says(b"bye")
    assert await leaving.hears() == b"bye"
    links.set(NAME, "blackhole")
    new = await connect()
    await old.says(b"two")
    await new.says(b"three")
    leaving.writer.close()
    links.set("api-redis", "delay", 1)  # its answer says that what came before was handled
    assert echo.heard == b"onebye"
    assert echo.lost == 0
    links.heal()
    assert await old.hears() == b""  # what it said is gone for good
    assert await new.hears() == b""
    await until(lambda: echo.lost == 2)
    assert echo.heard == b"onebye"


async def test_a_stall_delivers_late_what_came_meanwhile(
    connect: Connect, links: Links, echo: Echo
) -> None:
    client = await connect()
    await client.says(b"one")
    assert await client.hears() == b"one"
    links.set(NAME, "stall")
    await client.says(b"two")
    links.set("api-redis", "delay", 1)
    assert echo.heard == b"one"
    links.heal()
    assert await client.hears() == b"two"


async def test_a_delay_is_kept_each_way(connect: Connect, links: Links) -> None:
    links.set(NAME, "delay", 50)
    client = await connect()
    before = asyncio.get_running_loop().time()
    await client.says(b"hello")
    assert await client.hears() == b"hello"
    assert asyncio.get_running_loop().time() - before >= 0.1


def test_each_side_goes_by_its_own_lines(links: Links, short_path: Path) -> None:
    given = {
        "RUNLEDGER_DATABASE_URL": "postgresql://me:secret@/data?host=%2Fwhere",
        "RUNLEDGER_REDIS_URL": "unix:///where?db=0",
        "OTHER": "kept",
    }
    worker = links.through("worker", given)
    assert worker["OTHER"] == "kept"
    assert worker["RUNLEDGER_DATABASE_URL"].startswith("postgresql://me:secret@/data?host=%2F")
    assert "worker-postgres" in worker["RUNLEDGER_DATABASE_URL"]
    assert "worker-redis" in worker["RUNLEDGER_REDIS_URL"]
    assert "api-redis" in links.through("api", given)["RUNLEDGER_REDIS_URL"]
    sockets = {path.parent.name for path in short_path.rglob(POSTGRES_SOCKET)}
    assert sockets == {name for name in LINKS if name.endswith("postgres")}
