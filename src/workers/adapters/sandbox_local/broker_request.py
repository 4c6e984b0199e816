"""One HTTP request out of a connection from inside a sandbox, within limits."""

import asyncio
from typing import Final, Literal

import httptools

HEAD_BYTES_MAX: Final = 32 * 1024
BODY_BYTES_MAX: Final = 8 * 1024 * 1024
REQUEST_SECONDS: Final = 30.0
"""From the connection to the request's last byte."""
_PIECE_BYTES: Final = 64 * 1024

Code = Literal["invalid_body", "too_large"]


class BadRequest(Exception):
    def __init__(self, status: int, code: Code, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code


class Request:
    """Filled by the parser's callbacks, whose names are its own."""

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self._body = bytearray()

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    @property
    def waits_for_continue(self) -> bool:
        return any(
            name.lower() == b"expect" and value.lower() == b"100-continue"
            for name, value in self.headers
        )

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, piece: bytes) -> None:
        self._body += piece
        if len(self._body) > BODY_BYTES_MAX:
            raise BadRequest(413, "too_large", f"The body is over {BODY_BYTES_MAX} bytes")

    def on_message_complete(self) -> None:
        self.complete = True


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Request | None:
    """None if the connection was closed unused. Raises BadRequest, ConnectionError, TimeoutError.

    What follows the request on the connection is never looked at.
    """
    async with asyncio.timeout(REQUEST_SECONDS):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return None
            raise BadRequest(400, "invalid_body", "The request has no end") from error
        except asyncio.LimitOverrunError as error:
            raise BadRequest(431, "too_large", "The request's headers are too long") from error
        request = Request()
        parser = httptools.HttpRequestParser(request)
        _feed(parser, head)
        request.method = parser.get_method().decode("ascii")
        if request.waits_for_continue and not request.complete:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not request.complete:
            piece = await reader.read(_PIECE_BYTES)
            if not piece:
                raise BadRequest(400, "invalid_body", "The request's body has no end")
            _feed(parser, piece)
        return request


def _feed(parser: httptools.HttpRequestParser, piece: bytes) -> None:
    try:
        parser.feed_data(piece)
    except httptools.HttpParserCallbackError as error:
        if isinstance(error.__context__, BadRequest):
            raise error.__context__ from None
        raise
    except httptools.HttpParserUpgrade as error:
        raise BadRequest(400, "invalid_body", "Connections are not upgraded here") from error
    except httptools.HttpParserError as error:
        raise BadRequest(400, "invalid_body", "This is not an HTTP request") from error
