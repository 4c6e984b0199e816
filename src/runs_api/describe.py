"""The OpenAPI document: the routes as Litestar knows them, and what it cannot know of ours."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.routes import HTTPRoute

from runs_api.schemas import ErrorBody, RunRequestBody

TITLE: Final = "Runledger"
API_VERSION: Final = "1"
REFERENCE: Final = "#/components/schemas/{name}"
SECURITY_SCHEMES: Final = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
ANY_ROUTE: Final = {"500": "A fault of ours", "503": "The store cannot be asked now"}
PRIVATE_ROUTE: Final = {
    "400": "Not valid",
    "401": "No credential, two, or one that is not good",
    "403": "Not for this key",
    "404": "Unknown, or not yours",
}
BODY_ROUTE: Final = {"409": "Something else holds the chat", "413": "The body is too large"}


def document(handlers: Sequence[HTTPRouteHandler]) -> dict[str, Any]:
    """OpenAPI 3.1. The application made here serves nothing."""
    app = Litestar(
        route_handlers=list(handlers),
        openapi_config=OpenAPIConfig(title=TITLE, version=API_VERSION),
        logging_config=None,
    )
    described: dict[str, Any] = app.openapi_schema.to_schema()
    _, ours = msgspec.json.schema_components([ErrorBody, RunRequestBody], ref_template=REFERENCE)
    components = described.setdefault("components", {})
    components.setdefault("schemas", {}).update(ours)
    components["securitySchemes"] = SECURITY_SCHEMES
    described["security"] = [{name: []} for name in SECURITY_SCHEMES]
    for handler, operation in _operations(app, described):
        _complete(handler, operation)
    return described


def _operations(
    app: Litestar, described: dict[str, Any]
) -> Iterator[tuple[HTTPRouteHandler, dict[str, Any]]]:
    for route in app.routes:
        if isinstance(route, HTTPRoute) and route.path_format in described["paths"]:
            for method, (handler, _) in route.route_handler_map.items():
                operation = described["paths"][route.path_format].get(method.lower())
                if operation is not None:
                    yield handler, operation


def _complete(handler: HTTPRouteHandler, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("400", None)  # the framework's own shape, which we never send
    errors = dict(ANY_ROUTE)
    if handler.opt.get("public"):
        operation["security"] = []
    else:
        errors |= PRIVATE_ROUTE
    if handler.opt.get("body"):
        errors |= BODY_ROUTE
        content = _json(handler.opt["body"])
        operation["requestBody"] = {"required": True, "content": content}
    for status, description in errors.items():
        responses[status] = {"description": description, "content": _json(ErrorBody)}


def _json(body: type[msgspec.Struct]) -> dict[str, Any]:
    reference = REFERENCE.format(name=body.__name__)
    return {"application/json": {"schema": {"$ref": reference}}}
