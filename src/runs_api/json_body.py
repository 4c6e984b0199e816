"""A request's body as a JSON object within limits of size, time and depth.

JSON is parsed whatever the content-type: the SDK's transports send text/plain.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from litestar import Request

from runs_api.errors import ApiError, Path, invalid
from runs_domain.events import Json

BODY_BYTES_MAX: Final = 1024 * 1024
BODY_SECONDS_MAX: Final = 30.0
JSON_DEPTH_MAX: Final = 100

_decoder = msgspec.json.Decoder()


async def body_of(request: Request[Any, Any, Any]) -> bytes:
    """All of it, within the time that a body may take. Raises 408; 413 is the framework's."""
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            return await request.body()
    except TimeoutError:
        raise ApiError(408, "invalid_body", "The body took too long to arrive") from None


def parse_object(raw: bytes) -> Json:
    """A JSON object within the limits: depth, and no U+0000, which PostgreSQL's text refuses."""
    if not raw:
        raise ApiError(400, "invalid_json", "The body is empty; a JSON object is expected")
    try:
        body = _decoder.decode(raw)
    except UnicodeDecodeError:
        raise ApiError(400, "invalid_json", "The body is not valid UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, ValueError):
        # The parser's own sentence may quote the body.
        raise ApiError(400, "invalid_json", "The body is not valid JSON") from None
    # Both walks are for bodies that could fail them: counting bytes is far cheaper.
    if raw.count(b"[") + raw.count(b"{") > JSON_DEPTH_MAX and _depth(body) > JSON_DEPTH_MAX:
        raise _too_deep()
    if b"\\u0000" in raw:
        for path in _nul_paths(body):
            raise invalid(path, "U+0000 cannot be stored")
    if not isinstance(body, dict):
        raise invalid((), "The body must be a JSON object")
    return body


def _too_deep() -> ApiError:
    return ApiError(400, "invalid_json", f"The body nests more than {JSON_DEPTH_MAX} levels deep")


def _children(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _depth(value: Any) -> int:
    """Objects and lists inside each other, level by level: recursion is what a deep body breaks."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [child for item in level for _, child in _children(item)]
    return depth


def _nul_paths(value: Any) -> Iterator[Path]:
    waiting: deque[tuple[Path, Any]] = deque([((), value)])
    while waiting:
        path, item = waiting.popleft()
        if isinstance(item, str) and "\0" in item:
            yield path
        for name, child in _children(item):
            if isinstance(name, str) and "\0" in name:
                yield path
            waiting.append(((*path, name), child))
