"""The API over the memory twins, with people who have keys, and events made by hand."""

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
from litestar import Litestar
from typing_extensions import override

from runs_api.app import create_app
from runs_api.background import Background
from runs_api.deps import DEPS, Deps
from runs_api.head_watch import HeadWatch
from runs_api.metrics import Metrics
from runs_domain.as_of import Point
from runs_domain.credentials_port import AccountKind, Credential
from runs_domain.errors import QueueUnavailable, StoreUnavailable
from runs_domain.ids import AccountId, ChatId, KeyId, RunId, Version
from runs_domain.keys import ServerSecrets
from runs_domain.ports import BEFORE_FIRST, Append, ChunkTail, Head, Job, JobKind, Recorded, Stored
from runs_domain.settings import Secret, Settings
from runs_domain.storage.fleet_counters import FLEET_COUNTERS
from runs_domain.storage.identity import SystemClock, uuid7
from runs_domain.storage.job_stats import JobStats
from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.memory_chunks import MemoryChunks
from runs_domain.storage.memory_jobs import MemoryCancelPush, MemoryJobs
from runs_domain.storage.store_stats import StoreStats
from tests.support.asgi import Answer, Exchange, call, opened
from tests.support.driven import Driven
from tests.support.lists import FoldedLists

ME, OTHER = AccountId(UUID(int=0xA1)), AccountId(UUID(int=0xA2))
ORG, MEMBER = AccountId(UUID(int=0xA3)), AccountId(UUID(int=0xA4))
MINE = {"x-api-key": "mine"}
THEIRS = {"x-api-key": "theirs"}
ORGS = {"x-api-key": "org"}
MEMBERS = {"x-api-key": "member"}

SETTINGS = Settings(
    database_url=Secret("postgresql://nowhere"),
    redis_url=Secret("redis://nowhere"),
    secret=Secret("s" * 32),
    default_model="scripted/echo",
    cors_origins=("https://app.example",),
)


def account_key(account: AccountId, kind: AccountKind = "person") -> Credential:
    return Credential(
        key_id=KeyId(uuid7()),
        account_id=account,
        account_kind=kind,
        scopes=("runs:read", "runs:write"),
    )


class Keys:
    """The credential store: a dict that a test changes."""

    def __init__(self) -> None:
        self.known = {
            "mine": account_key(ME),
            "theirs": account_key(OTHER),
            "org": account_key(ORG, "org"),
            "member": account_key(MEMBER),
        }
        self.members = {(ORG, MEMBER)}
        self.looked_up = 0
        self.down = False

    async def look_up(self, raw: str) -> Credential | None:
        self.looked_up += 1
        if self.down:
            raise StoreUnavailable("down")
        return self.known.get(raw)

    async def is_member(self, org_id: AccountId, member_id: AccountId) -> bool:
        return (org_id, member_id) in self.members


class Log(MemoryEventLog):
    """Counts appends and head look-ups; `down` makes every call fail, as without PostgreSQL."""

    down = False
    appends = 0
    head_looks = 0

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("down")

    @override
    async def append(self, append: Append) -> tuple[Recorded, ...]:
        self._check()
        self.appends += 1
        return await super().append(append)

    @override
    async def read(self, run_id: RunId, *, after: Version = BEFORE_FIRST) -> tuple[Recorded, ...]:
        self._check()
        return await super().read(run_id, after=after)

    @override
    async def read_stored(
        self, run_id: RunId, *, after: Version = BEFORE_FIRST, limit: int | None = None
    ) -> tuple[Stored, ...]:
        self._check()
        return await super().read_stored(run_id, after=after, limit=limit)

    @override
    async def read_outline(self, run_id: RunId, *, at: Point | None = None) -> tuple[Recorded, ...]:
        self._check()
        return await super().read_outline(run_id, at=at)

    @override
    async def head(self, run_id: RunId) -> Head | None:
        self._check()
        self.head_looks += 1
        return await super().head(run_id)

    @override
    async def heads_of_chat(self, chat_id: ChatId) -> tuple[Head, ...]:
        self._check()
        return await super().heads_of_chat(chat_id)


class Chunks(MemoryChunks):
    """Counts reads; `down` makes every one fail, as without Redis."""

    down = False
    reads = 0

    def watched(self, run_id: RunId) -> bool:
        return bool(self._watchers.get(run_id))

    def _check(self) -> None:
        if self.down:
            raise QueueUnavailable("down")

    @override
    async def read(self, run_id: RunId, index: int, *, count: int) -> ChunkTail | None:
        self.reads += 1
        self._check()
        return await super().read(run_id, index, count=count)

    @override
    async def next_index(self, run_id: RunId) -> int | None:
        self._check()
        return await super().next_index(run_id)


class Jobs(MemoryJobs):
    """`down` makes every call fail that the API makes, as without Redis."""

    down = False

    @override
    async def send(self, job: Job, *, delay_seconds: float = 0.0) -> bool:
        self._check()
        return await super().send(job, delay_seconds=delay_seconds)

    @override
    async def hasten(self, kind: JobKind, job_id: str) -> bool:
        self._check()
        return await super().hasten(kind, job_id)

    def _check(self) -> None:
        if self.down:
            raise QueueUnavailable("down")


class Clock(SystemClock):
    """Real time, plus what a test adds."""

    ahead = 0.0

    @override
    def monotonic_seconds(self) -> float:
        return super().monotonic_seconds() + self.ahead


NO_JOBS = JobStats(
    queued=0,
    taken=0,
    waiting=0,
    delayed=0,
    held=0,
    oldest_queued_seconds=None,
    slots=0,
    accounts=0,
    busiest=(),
    workers=(),
    counters=dict.fromkeys(FLEET_COUNTERS, 0),
)

NOTHING_OPEN = StoreStats(open_letters=0, open_runs=0, still_seconds_max=0.0)


@dataclass
class Api:
    """`app` serves over `log`, `chunks`, `jobs`, `cancels` and `keys`."""

    app: Litestar = field(init=False)
    clock: Clock = field(default_factory=Clock)
    chunks: Chunks = field(default_factory=Chunks)
    jobs: Jobs = field(default_factory=Jobs)
    cancels: MemoryCancelPush = field(default_factory=MemoryCancelPush)
    keys: Keys = field(default_factory=Keys)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    background: Background = field(default_factory=Background)
    stats: JobStats = NO_JOBS
    readings: int = 0
    unfinished: StoreStats = NOTHING_OPEN

    def __post_init__(self) -> None:
        self.log = Log(ServerSecrets({1: SETTINGS.secret}, current=1), self.clock)
        self.run_lists = FoldedLists(self.log)
        deps = Deps(
            log=self.log,
            heads=HeadWatch(self.log, self.clock),
            chunks=self.chunks,
            jobs=self.jobs,
            cancels=self.cancels,
            credentials=self.keys,
            run_lists=self.run_lists,
            clock=self.clock,
            new_id=uuid7,
            is_served=lambda model: model.startswith("scripted/"),
            default_model=SETTINGS.default_model,
            ask_store=self._ask_store,
            ask_queue=self._ask_queue,
            metrics=Metrics(self._read_stats, self._read_store, self.clock),
            background=self.background,
            draining=self.draining,
        )
        self.app = create_app(SETTINGS, lambda: nullcontext(deps))
        self.app.state[DEPS] = deps

    async def _ask_store(self) -> None:
        if self.log.down:
            raise StoreUnavailable("down")

    async def _read_store(self) -> StoreStats:
        await self._ask_store()
        return self.unfinished

    async def _read_stats(self) -> JobStats:
        await self._ask_queue()
        self.readings += 1
        return self.stats

    async def _ask_queue(self) -> None:
        if self.chunks.down:
            raise QueueUnavailable("down")

    # ------------------------------------------------------------------ requests

    async def get(self, target: str, headers: Any = MINE) -> Answer:
        return await call(self.app, "GET", target, headers=headers)

    async def post(self, target: str, body: Any = None, headers: Any = MINE) -> Answer:
        raw = (
            body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        )
        return await call(self.app, "POST", target, headers=headers, body=raw)

    def stream(
        self, target: str, headers: Any = MINE
    ) -> AbstractAsyncContextManager[tuple[int, dict[str, str], Exchange]]:
        return opened(self.app, "GET", target, headers=headers)

    async def start(self, headers: Any = MINE, **body: Any) -> Driven:
        """A run started over HTTP."""
        answer = await self.post("/api/chat/runs", {"prompt": "Say hello"} | body, headers)
        assert answer.status == 202, answer.body
        await self.background.close()
        return Driven(self.log, self.chunks, RunId(UUID(answer.json["runId"])), answer.json)

    async def nothing_happened(self) -> None:
        """No event, and no job."""
        await self.background.close()
        assert self.log.appends == 0
        assert not self.jobs.waiting
