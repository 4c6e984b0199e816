"""What the routes need of the world, wired in `app.py` and in the tests."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast
from uuid import UUID

from litestar.types import Scope

from runs_api.background import Background
from runs_api.head_watch import HeadWatch
from runs_api.metrics import Metrics
from runs_domain.credentials_port import CredentialStore
from runs_domain.ports import CancelPush, ChunkStream, Clock, EventLog, JobQueue
from runs_domain.run_lists_port import RunLists

DEPS: Final = "deps"

Probe = Callable[[], Awaitable[object]]
"""Returns if the part answers; raises StoreUnavailable or QueueUnavailable."""


@dataclass(frozen=True)
class Deps:
    log: EventLog
    heads: HeadWatch
    chunks: ChunkStream
    jobs: JobQueue
    cancels: CancelPush
    credentials: CredentialStore
    run_lists: RunLists
    clock: Clock
    new_id: Callable[[], UUID]
    """UUIDv7: newer ids sort after older ones."""
    is_served: Callable[[str], bool]
    """Whether some adapter serves a model of that id."""
    default_model: str
    ask_store: Probe
    ask_queue: Probe
    metrics: Metrics
    background: Background
    draining: asyncio.Event
    """Set when the process is told to end; every open stream listens for it."""


def deps_of(scope: Scope) -> Deps:
    return cast("Deps", scope["litestar_app"].state[DEPS])
