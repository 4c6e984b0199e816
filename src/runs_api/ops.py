"""What operators ask: is it alive, can it serve, what does it offer. The only public routes."""

import asyncio
import html
from collections.abc import Callable
from typing import Any, Final

import msgspec
from litestar import HttpMethod, Request, Response, get, route
from prometheus_client import CONTENT_TYPE_LATEST

from runs_api.about import Answer, about
from runs_api.auth import PUBLIC
from runs_api.deps import Probe, deps_of
from runs_api.errors import unavailable
from runs_api.schemas import Health, NotReady, PartState
from runs_domain.errors import QueueUnavailable, StoreUnavailable

PROBE_SECONDS_MAX: Final = 2.0
PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

PROBE_METHODS: Final = (HttpMethod.GET, HttpMethod.HEAD)
"""Load balancers ask with HEAD."""

ALIVE: Final = about({200: Answer("It does", Health)})
READY: Final = about(
    {
        200: Answer("It can", Health),
        503: Answer("It cannot: PostgreSQL does not answer", NotReady, ("Retry-After",)),
    }
)

METRICS_TYPE: Final = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")
"""The framework adds the charset to every text."""
METRICS: Final = about(
    {
        200: Answer(
            "The job system and the parts, in Prometheus' text format",
            texts={METRICS_TYPE.partition(";")[0]: "A sample a line"},
        )
    }
)

DESCRIBE: Final = "describe"

AnyRequest = Request[Any, Any, Any]


@route("/healthz", http_method=PROBE_METHODS, opt=PUBLIC | ALIVE, summary="The process answers")
async def healthz() -> Health:
    return Health(status="ok")


@route("/readyz", http_method=PROBE_METHODS, opt=PUBLIC | READY, summary="The process can serve")
async def readyz(request: AnyRequest) -> Response[Health | NotReady]:
    """Without PostgreSQL it cannot (503). Without Redis it can: runs are accepted and start
    when Redis is back, and streams follow the log.
    """
    deps = deps_of(request.scope)
    store, queue = await asyncio.gather(_answers(deps.ask_store), _answers(deps.ask_queue))
    parts: dict[str, PartState] = {"postgres": _word(store), "redis": _word(queue)}
    if not store:
        doubt = unavailable()
        error = NotReady(error=doubt.sentence, code=doubt.code, parts=parts)
        return Response(error, status_code=doubt.status, headers=dict(doubt.headers))
    return Response(Health(status="ok" if queue else "degraded", parts=parts))


@get("/metrics", opt=PUBLIC | METRICS, media_type=METRICS_TYPE, summary="For Prometheus")
async def metrics(request: AnyRequest) -> Response[bytes]:
    """Answers whatever is away: then its samples are absent, and `runledger_up` says so."""
    text = await deps_of(request.scope).metrics.text()
    return Response(text, media_type=METRICS_TYPE)


async def _answers(probe: Probe) -> bool:
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            await probe()
    except (StoreUnavailable, QueueUnavailable, TimeoutError):
        return False
    return True


def _word(answers: bool) -> PartState:
    return "ok" if answers else "unavailable"


@get("/openapi.json", opt=PUBLIC, include_in_schema=False)
async def openapi(request: AnyRequest) -> Response[bytes]:
    return Response(msgspec.json.encode(described(request)), media_type="application/json")


@get("/docs", opt=PUBLIC, include_in_schema=False)
async def docs(request: AnyRequest) -> Response[str]:
    """The routes on one page that loads nothing from anywhere."""
    return Response(
        page(described(request)),
        media_type="text/html",
        headers={"content-security-policy": PAGE_POLICY},
    )


def described(request: AnyRequest) -> dict[str, Any]:
    describe: Callable[[], dict[str, Any]] = request.app.state[DESCRIBE]
    return describe()


def page(schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{method.upper()}</code></td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(operation.get('summary', ''))}</td></tr>"
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    )
    title = html.escape(schema["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.2rem 1rem .2rem 0;vertical-align:top}</style>"
        f"<h1>{title}</h1><p>Send <code>x-api-key: KEY</code> or"
        " <code>Authorization: Bearer KEY</code>. All of it, for machines:"
        ' <a href="/openapi.json">openapi.json</a>.</p>'
        f"<table>{rows}</table></html>"
    )
