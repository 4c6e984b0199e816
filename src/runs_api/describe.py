"""The OpenAPI document: the paths and parameters as the framework knows them, and the rest as the
routes say it (`about.py`), with schemas made from the structs that are sent.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.routes import HTTPRoute

from runs_api.about import ABOUT, JSON, About, Answer, Parameter
from runs_api.schemas import ErrorBody

TITLE: Final = "Runledger"
API_VERSION: Final = "1"
REFERENCE: Final = "#/components/schemas/{name}"
NULL: Final = {"type": "null"}
SECURITY_SCHEMES: Final = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
ANY_ROUTE: Final = (431, 500)
PRIVATE_ROUTE: Final = (401, 403, 503)
ERRORS: Final = {
    400: "Not valid; `missing_fields` leads to the first bad value",
    401: "No credential, two, or one that is not good",
    403: "Not for this key, or not for that account",
    404: "Unknown, or not yours",
    408: "The body took too long to arrive",
    409: "The run changed too often meanwhile; try again",
    413: "The body is too large",
    422: "The Idempotency-Key was used with another body",
    431: "The request's target and headers are too large",
    500: "A fault of ours",
    503: "The store cannot be asked now; try again",
}
ERROR_HEADERS: Final = {401: ("WWW-Authenticate",), 503: ("Retry-After",)}
HEADERS: Final = {
    "Cache-Control": "How an answer may be kept",
    "ETag": "The run's version, for If-None-Match",
    "Idempotency-Replayed": "`true`: the answer to an earlier request with the same key",
    "Location": "Where the run's status is",
    "Retry-After": "Seconds to wait before asking again",
    "WWW-Authenticate": "The scheme that a key may come in",
    "x-workflow-behind-seconds": "There if something is missing: the age of the oldest such event",
    "x-vercel-ai-ui-message-stream": "`v1`: the AI SDK's UI message stream",
    "x-workflow-run-id": "The run's id",
    "x-workflow-stream-tail-index": "The newest chunk's index now, -1 if there is none",
}


def document(handlers: Sequence[HTTPRouteHandler]) -> dict[str, Any]:
    """OpenAPI 3.1. The application made here serves nothing."""
    app = Litestar(
        route_handlers=list(handlers),
        openapi_config=OpenAPIConfig(title=TITLE, version=API_VERSION),
        logging_config=None,
    )
    described: dict[str, Any] = app.openapi_schema.to_schema()
    for method, handler, operation in _operations(app, described):
        _complete(method, handler, operation)
    schemas = _schemas([handler.opt[ABOUT] for handler in handlers if handler.include_in_schema])
    described["components"] = {"schemas": schemas, "securitySchemes": SECURITY_SCHEMES}
    described["security"] = [{name: []} for name in SECURITY_SCHEMES]
    without_null: dict[str, Any] = _without_null(described)
    return without_null


def _operations(
    app: Litestar, described: dict[str, Any]
) -> Iterator[tuple[str, HTTPRouteHandler, dict[str, Any]]]:
    for route in app.routes:
        if isinstance(route, HTTPRoute) and route.path_format in described["paths"]:
            for method, (handler, _) in route.route_handler_map.items():
                operation = described["paths"][route.path_format].get(method.lower())
                if operation is not None:
                    yield method.lower(), handler, operation


def _complete(method: str, handler: HTTPRouteHandler, operation: dict[str, Any]) -> None:
    said: About = handler.opt[ABOUT]
    errors = ANY_ROUTE + said.errors
    if handler.opt.get("public"):
        operation["security"] = []
    else:
        errors += PRIVATE_ROUTE
    answers = dict(said.answers)
    for status in errors:
        headers = ERROR_HEADERS.get(status, ())
        answers.setdefault(status, Answer(ERRORS[status], ErrorBody, headers))
    operation["operationId"] = f"{method}_{handler.handler_name}"
    operation["responses"] = {
        str(status): _response(answer, with_body=method != "head")
        for status, answer in sorted(answers.items())
    }
    parameters = [_in_path(one) for one in operation.get("parameters", [])]
    parameters += [_parameter(one) for one in said.parameters]
    if parameters:
        operation["parameters"] = parameters
    if said.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: _content(said.body)}}


def _response(answer: Answer, *, with_body: bool) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        response["headers"] = {
            name: {"description": HEADERS[name], "schema": {"type": "string"}}
            for name in answer.headers
        }
    content = {} if answer.body is None else {JSON: _content(answer.body)}
    if answer.example is not None:
        content[JSON]["example"] = dict(answer.example)
    for media_type, word in answer.texts.items():
        content[media_type] = {"schema": {"type": "string", "description": word}}
    if content and with_body:
        response["content"] = content
    return response


def _content(body: type[msgspec.Struct]) -> dict[str, Any]:
    return {"schema": {"$ref": REFERENCE.format(name=body.__name__)}}


def _in_path(parameter: dict[str, Any]) -> dict[str, Any]:
    if parameter["in"] == "path":
        parameter["schema"]["format"] = "uuid"
    return parameter


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": False,
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _schemas(routes: Sequence[About]) -> dict[str, Any]:
    bodies: list[type[msgspec.Struct]] = [ErrorBody]
    for said in routes:
        bodies += [one.body for one in said.answers.values() if one.body is not None]
        bodies += [] if said.body is None else [said.body]
    _, schemas = msgspec.json.schema_components(set(bodies), ref_template=REFERENCE)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return dict(sorted(schemas.items()))


def _without_null(value: Any) -> Any:
    """A field without a value is left out of a body: None is our word for it, not the wire's."""
    if isinstance(value, list):
        return [_without_null(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {name: _without_null(one) for name, one in value.items()}
    for word in ("anyOf", "oneOf"):
        choices = kept.get(word)
        if isinstance(choices, list) and NULL in choices:
            left = [one for one in choices if one != NULL]
            del kept[word]
            kept.pop("default", None)
            kept |= left[0] if len(left) == 1 else {word: left}
    return kept
