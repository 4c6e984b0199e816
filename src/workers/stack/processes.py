"""Our own processes as children of a stack: start, ready or not, restart, stop."""

import http.client
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from workers import notify
from workers.stack.child import Child, StackError, spawn
from workers.stack.places import Places

READY_SECONDS: Final = 30.0
STOP: Final = ((signal.SIGTERM, 20.0),)
"""Longer than a worker lets a step in hand go on."""
PROBE_SECONDS: Final = 1.0
NOTICE_BYTES_MAX: Final = 256


class Process:
    """`runledger COMMAND`, its output in the stack's logs under `name`."""

    def __init__(
        self,
        name: str,
        command: str,
        places: Places,
        environment: Mapping[str, str],
        *,
        answers: Callable[[], bool] | None = None,
        port_file: Path | None = None,
    ) -> None:
        """`answers` tells that it is ready; without it the process says so itself (`notify`).

        `port_file` is what the process writes when it listens: another one on the same port
        may answer, too.
        """
        self.name = name
        self._program = Path(sys.executable).with_name("runledger")
        self._command = command
        self._places = places
        self._environment = environment
        self._answers = answers
        self._port_file = port_file
        self._child: Child | None = None
        self._notices: socket.socket | None = None

    @property
    def child(self) -> Child:
        if self._child is None:
            raise StackError(f"{self.name} is not started")
        return self._child

    def start(self) -> None:
        """Start it; `wait_until_ready` comes next, so that several start side by side."""
        environment = dict(self._environment)
        if self._answers is None:
            environment[notify.VARIABLE] = self._listen()
        if self._port_file is not None:
            self._port_file.unlink(missing_ok=True)
        self._child = spawn(
            self.name,
            [str(self._program), self._command, *self._arguments()],
            log=self._places.logs / f"{self.name}.log",
            on_owner_death=signal.SIGTERM,
            environment=environment,
        )

    def wait_until_ready(self) -> None:
        """StackError with the log's end if it ends, or is not ready within READY_SECONDS."""
        self.child.wait_until(self._is_ready, timeout_seconds=READY_SECONDS)
        self._close()

    def ask_to_stop(self) -> None:
        if self._child is not None:
            self._child.kill(signal.SIGTERM)

    def stop(self) -> None:
        """Return when it has ended, by SIGKILL if it must be."""
        self._close()
        if self._child is not None:
            self._child.stop(STOP)
            self._child = None

    def _arguments(self) -> list[str]:
        return [] if self._port_file is None else ["--port-file", str(self._port_file)]

    def _is_ready(self) -> bool:
        if self._answers is None:
            return self._has_said_so()
        return (self._port_file is None or self._port_file.exists()) and self._answers()

    def _listen(self) -> str:
        path = self._places.sockets / f"{self.name}.ready"
        path.unlink(missing_ok=True)
        self._close()
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.setblocking(False)
        self._notices.bind(str(path))
        return str(path)

    def _has_said_so(self) -> bool:
        if self._notices is None:
            return False
        try:
            return notify.READY in self._notices.recv(NOTICE_BYTES_MAX)
        except BlockingIOError:
            return False

    def _close(self) -> None:
        if self._notices is not None:
            self._notices.close()
            self._notices = None
            (self._places.sockets / f"{self.name}.ready").unlink(missing_ok=True)


def api_answers(host: str, port: int) -> Callable[[], bool]:
    """Whether `/readyz` says 200."""

    def probe() -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False  # not yet; the caller's deadline decides how often
        finally:
            connection.close()

    return probe


def free_port(host: str, wanted: int) -> int:
    """`wanted`, or any free one for 0. StackError if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            raise StackError(
                f"port {wanted} cannot be used ({error.strerror}); --port 0 takes any free one"
            ) from error
        return int(probe.getsockname()[1])
