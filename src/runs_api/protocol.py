"""What a connection may ask of us before any credential is looked at.

Uvicorn bounds neither the size of a request's head nor the time that it takes to arrive, and
answers what is no HTTP in plain text.
"""

import asyncio
from typing import Any, ClassVar, Final

import msgspec
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from runs_api.schemas import ErrorBody

HEAD_BYTES_MAX: Final = 32 * 1024
"""The request target and all headers, as they are sent."""
HEADER_EXTRA_BYTES: Final = 4
"""What separates a name from its value, and a header from the next."""
HEAD_SECONDS_MAX: Final = 10.0
"""From the connection, or from a later request's first byte, to the end of the head."""
CONNECTIONS_MAX: Final = 12_000
"""Open at once in one process; more than the readers that a process takes."""
LINGER_SECONDS: Final = 1.0
"""How long a refused client may take to read the answer."""
RETRY_AFTER: Final = (b"retry-after", b"1")

_NO_HTTP: Final = ErrorBody(error="The request is not valid HTTP", code="invalid_body")
_HEAD_TOO_LARGE: Final = ErrorBody(
    error=f"The request's head has more than {HEAD_BYTES_MAX} bytes", code="too_large"
)
_HEAD_TOO_SLOW: Final = ErrorBody(
    error="The request's head took too long to arrive", code="invalid_body"
)
_FULL: Final = ErrorBody(error="Too many connections are open; try again", code="unavailable")


class _HeadTooLarge(Exception):
    """Stops the parser, which reports it as an error of the request."""


class BoundedProtocol(HttpToolsProtocol):
    head_bytes_max: ClassVar[int] = HEAD_BYTES_MAX
    head_seconds_max: ClassVar[float] = HEAD_SECONDS_MAX
    connections_max: ClassVar[int] = CONNECTIONS_MAX

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._in_head = False
        self._heads = 0
        """How many have begun."""
        self._head_bytes = 0
        """Of the newest: at first what came after the piece that it began in, then all of it."""
        self._deadline: asyncio.TimerHandle | None = None
        self._refused = False

    # ------------------------------------------------------------------ the connection

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            self._refuse(503, _FULL, RETRY_AFTER)
        else:
            self._arm()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_refused():
            return
        unfinished = self._heads if self._in_head else None
        super().data_received(data)
        if self._is_refused():
            return
        if self._in_head and self._heads == unfinished:
            # One header may be endless, and the parser hands it on only at its end.
            self._head_bytes += len(data)
            if self._head_bytes > self.head_bytes_max:
                self.send_400_response("")
        if self._deadline is None and not self._is_answering():
            self._arm()

    # ------------------------------------------------------------------ the head

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._heads += 1
        self._head_bytes = 0

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = len(self.url) + sum(
            len(name) + len(value) + HEADER_EXTRA_BYTES for name, value in self.headers
        )
        if self._head_bytes > self.head_bytes_max:
            raise _HeadTooLarge
        self._disarm()
        super().on_headers_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        """Uvicorn's, for whatever the parser refuses."""
        if self._head_bytes > self.head_bytes_max:
            self._refuse(431, _HEAD_TOO_LARGE)
        else:
            self._refuse(400, _NO_HTTP)

    # ------------------------------------------------------------------ deadline and refusal

    def _is_refused(self) -> bool:
        return self._refused

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.head_seconds_max, self._expired)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        self._deadline = None
        if self._in_head and not self._is_answering():
            self._refuse(408, _HEAD_TOO_SLOW)
        else:
            self.transport.close()

    def _refuse(self, status: int, error: ErrorBody, *headers: tuple[bytes, bytes]) -> None:
        """Answer and hang up; without a word while another answer is being written."""
        self._refused = True
        self._disarm()
        if self._is_answering():
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write(_response(status, error, headers))
            # To hang up on what is still being sent would take the answer back.
            self.transport.write_eof()
            self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _response(status: int, error: ErrorBody, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    body = msgspec.json.encode(error)
    lines = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"x-content-type-options", b"nosniff"),
        *headers,
    ]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return STATUS_LINE[status] + head + b"\r\n" + body
