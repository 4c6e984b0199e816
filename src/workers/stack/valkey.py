"""An embedded Valkey: unix socket only, append-only file written every second.

A power loss may take its last second; nothing in it is the only copy.
"""

import os
import signal
from typing import Final
from urllib.parse import quote

import redis

from workers.stack import programs
from workers.stack.child import Child, StackError, spawn
from workers.stack.places import Places

START_SECONDS: Final = 30.0
STOP: Final = ((signal.SIGTERM, 10.0),)
CONNECT_SECONDS: Final = 1.0


class Valkey:
    def __init__(self, places: Places) -> None:
        self._places = places
        self._program = programs.valkey_server()
        self._socket = places.sockets / "valkey.sock"
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def child(self) -> Child:
        if self._child is None:
            raise StackError("Valkey is not started")
        return self._child

    def url(self, database: int = 0) -> str:
        return f"unix://{quote(str(self._socket))}?db={database}"

    def start(self) -> None:
        """Return when it takes commands. StackError says what is wrong."""
        lock = self._places.server_lock("valkey")
        try:
            self._socket.unlink(missing_ok=True)
            self._child = spawn(
                "valkey",
                [str(self._program), *self._options()],
                log=self._places.logs / "valkey.log",
                on_owner_death=signal.SIGTERM,
                environment={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                keep_fds=[lock],
            )
        finally:
            os.close(lock)
        try:
            self._child.wait_until(self._is_ready, timeout_seconds=START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def stop(self, *, at_once: bool = False) -> None:
        """Write what is pending and end; `at_once` ends it as a crash would."""
        if self._child is not None:
            self._child.stop(() if at_once else STOP)
            self._child = None

    def _options(self) -> list[str]:
        options = {
            "--port": "0",
            "--unixsocket": str(self._socket),
            "--unixsocketperm": "700",
            "--dir": str(self._places.valkey),
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--save": "",
            "--daemonize": "no",
        }
        return [part for item in options.items() for part in item]

    def _is_ready(self) -> bool:
        if not self._socket.exists():
            return False
        client = redis.Redis(
            unix_socket_path=str(self._socket),
            socket_timeout=CONNECT_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
        )
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False  # the caller's deadline decides how often
        finally:
            client.close()
