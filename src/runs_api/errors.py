"""The one table from what went wrong to what the client is told.

Every error body of the API, the framework's included, is
`{"status": "error", "error": "<sentence>", "code": "<word>"}`; validation adds `missing_fields`,
the path to the first bad value as segments. Whatever stands in no table is a 500 that says
nothing: its cause is in the log.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from runs_api.observe import request_id
from runs_api.schemas import Code, ErrorBody
from runs_domain import errors

Path: TypeAlias = tuple[str | int, ...]

SENTENCE_CHARS_MAX: Final = 599
SEGMENT_CHARS_MAX: Final = 100
RETRY_AFTER_SECONDS: Final = 1
NO_HEADERS: Final[Mapping[str, str]] = {}

_logger = logging.getLogger(__name__)


class ApiError(Exception):
    """A refusal that the API itself decides on."""

    def __init__(
        self,
        status: int,
        code: Code,
        sentence: str,
        *,
        path: Path = (),
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.code: Code = code
        self.sentence = sentence
        self.path = path
        self.headers = headers


def invalid(path: Path, problem: str, *, code: Code = "invalid_body") -> ApiError:
    """400 that names the first bad value."""
    where = errors.dotted(_clipped(path))
    return ApiError(400, code, f"{where}: {problem}" if where else problem, path=path)


def unauthorized(sentence: str) -> ApiError:
    return ApiError(401, "unauthorized", sentence, headers={"WWW-Authenticate": "Bearer"})


def forbidden(sentence: str, path: Path = ()) -> ApiError:
    return ApiError(403, "forbidden", sentence, path=path)


def not_found() -> ApiError:
    """Unknown, malformed and somebody else's are one answer, to the byte (invariant 9)."""
    return ApiError(404, "not_found", "Not found")


def unavailable() -> ApiError:
    """Doubt: never a 404, never an empty answer (incidents I-24, L-08)."""
    return ApiError(
        503,
        "unavailable",
        "The service cannot answer this now; try again",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


class _Rule(NamedTuple):
    status: int
    code: Code
    sentence: str


_INTERNAL: Final = _Rule(500, "internal", "Internal server error")
_UNAVAILABLE: Final = _Rule(503, "unavailable", unavailable().sentence)

_DOMAIN: Final[dict[type[Exception], _Rule]] = {
    errors.RunNotFound: _Rule(404, "not_found", not_found().sentence),
    errors.ChatBusy: _Rule(409, "chat_busy", "Another run of this chat is live"),
    errors.VersionConflict: _Rule(409, "conflict", "The run changed meanwhile; try again"),
    errors.RunEnded: _Rule(409, "conflict", "The run has ended"),
    errors.IllegalTransition: _Rule(409, "conflict", "The run's state does not allow this"),
    # Another process may be of the newer release that wrote it.
    errors.UnknownEvent: _UNAVAILABLE,
    errors.ContentErased: _Rule(403, "forbidden", "The account was erased"),
    errors.StoreUnavailable: _UNAVAILABLE,
    errors.QueueUnavailable: _UNAVAILABLE,
}
_FRAMEWORK: Final[dict[int, _Rule]] = {
    400: _Rule(400, "invalid_body", "The request is not valid"),
    401: _Rule(401, "unauthorized", "A credential is needed"),
    403: _Rule(403, "forbidden", "Not allowed"),
    404: _Rule(404, "not_found", not_found().sentence),
    405: _Rule(405, "method_not_allowed", "The route does not have this method"),
    408: _Rule(408, "invalid_body", "The request took too long to arrive"),
    413: _Rule(413, "too_large", "The body is too large"),
    503: _UNAVAILABLE,
}


def answer_to(error: Exception) -> ApiError:
    """What the client is told about `error`."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, errors.InvalidMessages):
        return invalid(error.path, error.problem)
    if isinstance(error, ValidationException) and error.extra:
        return _bad_parameter(error.extra)
    if isinstance(error, HTTPException):
        rule = _FRAMEWORK.get(error.status_code, _INTERNAL)
        return ApiError(*rule, headers=error.headers or NO_HEADERS)
    rule = next((_DOMAIN[kind] for kind in type(error).__mro__ if kind in _DOMAIN), _INTERNAL)
    return unavailable() if rule is _UNAVAILABLE else ApiError(*rule)


def _bad_parameter(found: Any) -> ApiError:
    """The framework's finding about a query: its text names types and limits, never a value."""
    problem = str(found[0]["message"]).replace("`", "")
    return invalid((found[0]["key"],), problem[:1].lower() + problem[1:])


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    """Litestar's handler for every exception there is."""
    answer = answer_to(error)
    if answer.status >= 500:  # noqa: PLR2004 - the server's own faults
        # The class and the place, never the text: it may quote content.
        _logger.error(
            "%s answered with %d",
            type(error).__name__,
            answer.status,
            extra={"request": request_id(request.scope)},
            exc_info=error if answer.code == "internal" else None,
        )
    body = ErrorBody(
        error=answer.sentence[:SENTENCE_CHARS_MAX],
        code=answer.code,
        missing_fields=_clipped(answer.path) or msgspec.UNSET,
    )
    return Response(
        body, status_code=answer.status, headers=dict(answer.headers), media_type="application/json"
    )


def _clipped(path: Path) -> Path:
    """A field's name is the client's text: as long as a body may be."""
    return tuple(part[:SEGMENT_CHARS_MAX] if isinstance(part, str) else part for part in path)
