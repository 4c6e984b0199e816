"""Uvicorn that says when it is told to end, so that open streams can end first.

Without that it would wait for every stream before the application hears of the shutdown.
"""

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from litestar.types import ASGIApp
from typing_extensions import override

from runs_api.protocol import CONNECTIONS_MAX, BoundedProtocol
from runs_domain.errors import RunledgerError

GRACE_SECONDS: Final = 3
"""The backstop: what a request may still take after SIGTERM."""
KEEP_ALIVE_SECONDS: Final = 30
BACKLOG: Final = 2048
OPEN_FILES: Final = CONNECTIONS_MAX + 256
"""Wanted; the system's hard limit wins."""

_logger = logging.getLogger(__name__)


class CannotListen(RunledgerError):
    """A sentence for whoever chose the address."""


class DrainingServer(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, draining: asyncio.Event, on_ready: Callable[[int], None]
    ) -> None:
        """`on_ready` gets the bound port once requests are answered."""
        super().__init__(config)
        self._draining = draining
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        if self.started and sockets:
            port: int = sockets[0].getsockname()[1]
            _logger.info("listening on port %d", port)
            self._on_ready(port)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._draining.set)
        super().handle_exit(sig, frame)


def serve(
    app: ASGIApp, draining: asyncio.Event, *, host: str, port: int, on_ready: Callable[[int], None]
) -> bool:
    """Until SIGTERM or SIGINT, then drain. Port 0 = any. False = it could not start.

    Raises CannotListen.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = DrainingServer(config, draining, on_ready)
    # Uvicorn raises the signal again once it has drained; a drained end is a clean one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: None)
    _raise_open_files()
    with _listen(host, port) as listener:
        server.run(sockets=[listener])
    return server.started


def _raise_open_files() -> None:
    """The usual soft limit of 1024 is there for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
        reason = error.strerror if isinstance(error, OSError) else "not a host's name"
        raise CannotListen(f"cannot listen on {host} port {port}: {reason}") from error
