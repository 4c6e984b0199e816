"""The API's one wiring place: the routes, and what is behind them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import cache, partial
from typing import Any, Final, TypeAlias

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from redis.exceptions import RedisError

from runs_api import describe, history, messages, ops, preflight, run_list, runs, start, stream
from runs_api.auth import require_credential
from runs_api.background import Background
from runs_api.deps import DEPS, Deps
from runs_api.errors import respond
from runs_api.head_watch import HeadWatch
from runs_api.json_body import BODY_BYTES_MAX
from runs_api.metrics import Metrics
from runs_api.observe import REQUEST_ID_HEADER, before_send
from runs_api.sse import RUN_ID_HEADER, TAIL_INDEX_HEADER
from runs_domain.errors import QueueUnavailable
from runs_domain.model_ids import is_served
from runs_domain.settings import Settings
from runs_domain.storage.backing import backing
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.crash_points import CrashPoints
from runs_domain.storage.credentials import Credentials
from runs_domain.storage.identity import uuid7
from runs_domain.storage.job_stats import read_stats
from runs_domain.storage.postgres_log import LOOK_UP_SETTINGS
from runs_domain.storage.redis_chunks import RedisChunks
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_jobs import RedisJobs
from runs_domain.storage.redis_push import RedisCancelPush
from runs_domain.storage.run_lists import PostgresRunLists
from runs_domain.storage.store_stats import read_store_stats

HANDLERS: Final[tuple[HTTPRouteHandler, ...]] = (
    start.start_run,
    run_list.list_runs,
    runs.run_status,
    runs.cancel_run,
    history.run_events,
    messages.chat_messages,
    stream.chat_stream,
    stream.run_stream,
    ops.healthz,
    ops.readyz,
    ops.metrics,
    ops.openapi,
    ops.docs,
)
PREFLIGHT_SECONDS: Final = 600
REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    start.KEY_HEADER,
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "x-api-key",
)
RESPONSE_HEADERS: Final = (
    "ETag",
    "Location",
    "Retry-After",
    start.REPLAYED_HEADER,
    REQUEST_ID_HEADER,
    RUN_ID_HEADER,
    TAIL_INDEX_HEADER,
    run_list.BEHIND_HEADER,
)

OpenDeps: TypeAlias = Callable[[], AbstractAsyncContextManager[Deps]]


def create_app(settings: Settings, open_deps: OpenDeps) -> Litestar:
    """The application. `open_deps` is entered when it starts and left when it has ended."""
    refuse_unspoken(HANDLERS)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_deps() as deps:
            app.state[DEPS] = deps
            yield

    @cache
    def described() -> dict[str, Any]:
        return describe.document(HANDLERS)

    return Litestar(
        route_handlers=HANDLERS,
        guards=[require_credential],
        exception_handlers={Exception: respond},
        before_send=[before_send, preflight.before_send],
        cors_config=_cors(settings),
        openapi_config=None,
        logging_config=None,
        request_max_body_size=BODY_BYTES_MAX,
        lifespan=[lifespan],
        state=State({ops.DESCRIBE: described}),
    )


def refuse_unspoken(handlers: tuple[HTTPRouteHandler, ...]) -> None:
    """Every route says whether it is public or what scope it needs, or there is no application."""
    for handler in handlers:
        if bool(handler.opt.get("public")) == bool(handler.opt.get("scope")):
            raise ValueError(f"{sorted(handler.paths)} must be public or need a scope")


def _cors(settings: Settings) -> CORSConfig | None:
    """Keys come in headers, never in cookies, so no credentials mode; dev lets every origin in."""
    origins = list(settings.cors_origins) or (["*"] if settings.dev_mode else [])
    if not origins:
        return None
    return CORSConfig(
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=list(REQUEST_HEADERS),
        expose_headers=list(RESPONSE_HEADERS),
        max_age=PREFLIGHT_SECONDS,
    )


# ------------------------------------------------------------------------------ the real parts


@asynccontextmanager
async def connected(settings: Settings, draining: asyncio.Event) -> AsyncIterator[Deps]:
    """Works while PostgreSQL or Redis are away: what needs them is refused until they are back."""
    async with AsyncExitStack() as opened:
        base = await opened.enter_async_context(backing(settings))
        redis, log, clock = base.redis, base.log, base.clock
        lookups = ReconnectingConnection(settings.database_url, name="runledger key look-ups")
        opened.push_async_callback(lookups.close)
        looks = ReconnectingConnection(
            settings.database_url, name="runledger metrics", parameters=LOOK_UP_SETTINGS
        )
        opened.push_async_callback(looks.close)
        lists = PostgresRunLists(settings.database_url)
        opened.push_async_callback(lists.close)
        background = Background()
        opened.push_async_callback(background.close)
        yield Deps(
            log=log,
            heads=HeadWatch(log, clock),
            chunks=RedisChunks(redis, base.pubsub),
            jobs=CrashPoints(settings.crash_at).jobs(RedisJobs(redis)),
            cancels=RedisCancelPush(redis),
            credentials=Credentials(lookups, base.secrets, settings.key_prefix),
            run_lists=lists,
            clock=clock,
            new_id=uuid7,
            is_served=lambda model: is_served(model, settings),
            default_model=settings.default_model,
            ask_store=partial(lookups.fetch, "SELECT 1"),
            ask_queue=partial(_ping, redis),
            metrics=Metrics(partial(read_stats, redis), partial(read_store_stats, looks), clock),
            background=background,
            draining=draining,
        )


async def _ping(redis: PipelinedRedis) -> None:
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"ping: {type(error).__name__}") from error
