"""What the core asks of the world. `storage`, `workers.adapters` and the tests' twins answer.

The model has its own file (`model_port.py`), the sandbox too (`sandbox_port.py`).
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final, Literal, Protocol, TypeAlias

from runs_domain.as_of import Point
from runs_domain.events import Event, Struct
from runs_domain.ids import AccountId, Attempt, ChatId, KeyId, Position, RunId, SessionId, Version
from runs_domain.run import Status
from runs_domain.settings import Secret


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware, UTC."""
        ...

    def monotonic_seconds(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


# ------------------------------------------------------------------------------ event log


WORKER_ACTOR: Final = "worker:"
"""The actor of what a worker appends begins so; the worker's own name follows."""


class Context(Struct, frozen=True):
    """Who and why; goes into the envelope of each event of an append."""

    actor: str
    """A principal: `key:<key id>`, `org:<account id>`, `worker`, `reconciler`."""
    subject: AccountId
    """The account that the run belongs to."""
    correlation: str
    """One value for everything that one client request set off."""
    causation: str
    """What this append answers: a request id, or `<run id>:<version>` of an event."""
    attempt: Attempt


class Head(Struct, frozen=True):
    """The row of `run_heads`: the newest state of a stream, written by the append itself."""

    run_id: RunId
    account_id: AccountId
    chat_id: ChatId
    session_id: SessionId
    version: Version
    status: Status
    live: bool
    open: bool
    head_hash: str
    """SHA-256 (hex) of the last event's stored bytes; the next event's `prev`."""
    requested_position: Position
    updated_at: datetime


class KeyRow(Struct, frozen=True):
    """A run key to be stored with its `key_minted`, in the same transaction.

    The database sets `expires_at` from its own clock: now + `ttl_seconds`.
    """

    key_id: KeyId
    mac: bytes
    display_prefix: str
    secret_version: int
    ttl_seconds: int
    scopes: tuple[str, ...]


class Recorded(Struct, frozen=True):
    """An event as the log has it."""

    event: Event
    run_id: RunId
    version: Version
    position: Position
    type: str
    at: datetime
    actor: str
    subject: AccountId
    correlation: str
    causation: str
    attempt: Attempt
    prev: str
    hash: str
    erased: bool = False
    """Its content is gone with the account's data key: the sealed fields are empty."""


class Stored(Struct, frozen=True):
    """An event as it is stored, whatever this release makes of it: for audits, never upcast."""

    type: str
    """The stored tag, which may be older than every tag of this release, or newer."""
    data: bytes
    """A JSON object: the stored fields, known or not, the sealed ones opened."""
    version: Version
    position: Position
    at: datetime
    actor: str
    subject: AccountId
    attempt: Attempt
    prev: str
    hash: str
    erased: bool = False
    """There was content, and it is gone with the account's data key."""


class Append(Struct, frozen=True):
    """Events of one stream that become visible together or not at all.

    `prev` is the hash that the stream ends with (the SHA-256 of the run id's text for the first).
    Status, live and open are of the state *after* the events; the ids come from `requested`.
    """

    run_id: RunId
    expected_version: Version
    prev: str
    events: tuple[Event, ...]
    context: Context
    account_id: AccountId
    chat_id: ChatId
    session_id: SessionId
    status: Status
    live: bool
    open: bool
    mint: KeyRow | None = None
    """Beside a `key_minted` among the events; a `key_revoked` needs nothing more."""


BEFORE_FIRST = Version(0)


class EventLog(Protocol):
    async def append(self, append: Append) -> tuple[Recorded, ...]:
        """Commit, then return. Raises what AppendRefused stands for, and StoreUnavailable.

        A lost reply is resolved inside: what was committed is never reported as refused. If the
        caller is cancelled the append may still land; whoever continues reads the stream first.
        """
        ...

    async def read(self, run_id: RunId, *, after: Version = BEFORE_FIRST) -> tuple[Recorded, ...]:
        """The stream from `after` on, content unsealed; empty for an unknown run."""
        ...

    async def read_outline(self, run_id: RunId, *, at: Point | None = None) -> tuple[Recorded, ...]:
        """The stream without its content (sealed fields keep their defaults): cheaper.

        `at` ends it there: what came later need not be understood. Raises NoSuchPoint.
        """
        ...

    async def read_stored(
        self, run_id: RunId, *, after: Version = BEFORE_FIRST, limit: int | None = None
    ) -> tuple[Stored, ...]:
        """The same events as `read` gives, as they are stored; also tags that `read` refuses.

        With a `limit`, a page: at most so many, fewer if they are large, none only at the end.
        """
        ...

    async def head(self, run_id: RunId) -> Head | None: ...

    async def heads_of_chat(self, chat_id: ChatId) -> tuple[Head, ...]:
        """Heads of a chat's runs, oldest first."""
        ...

    async def open_heads(
        self, *, limit: int, after: RunId | None = None, min_age_seconds: float = 0.0
    ) -> tuple[Head, ...]:
        """Runs with something left to do, by run id from `after` on: the reconciler's list.

        Only those that nothing was appended to for `min_age_seconds`, by the log's own clock, and
        none whose jobs a dead letter keeps back.
        """
        ...

    def follow(self, after: Position) -> AsyncGenerator[Sequence[Recorded], None]:
        """Every event after `after`, in position order, in batches, for ever; waits for more.

        It holds a connection: read it inside `contextlib.aclosing`.
        """
        ...


# ------------------------------------------------------------------------------ run keys


class RunKey(Struct, frozen=True):
    secret: Secret
    row: KeyRow


class KeyIssuer(Protocol):
    def derive(
        self,
        key_id: KeyId,
        run_id: RunId,
        *,
        secret_version: int,
        ttl_seconds: int,
        scopes: tuple[str, ...],
    ) -> RunKey:
        """The run's key: the same for the same ids, so that no one ever stores it.

        Raises UnknownSecretVersion once the server secret that minted it is no longer kept.
        """
        ...


class KeyLeases(Protocol):
    async def renew(self, run_id: RunId, key_id: KeyId, *, ttl_seconds: int) -> bool:
        """Move an unrevoked key's expiry to now + ttl; False if there is none to renew."""
        ...


# ------------------------------------------------------------------------------ live chunks


class ChunkTail(Struct, frozen=True):
    """What Redis holds of a run's frames: indexes `first` … `first + len(frames) - 1`.

    `attempt` wrote last: it vouches for every frame that is there.
    """

    first: int
    frames: tuple[bytes, ...]
    attempt: Attempt


class Fence(Struct, frozen=True):
    """One call's fence at one run's chunks. `mark` is that call's alone."""

    attempt: Attempt
    mark: str


class ChunkStream(Protocol):
    """Frames of live runs, numbered from 0. Every method raises QueueUnavailable on doubt."""

    async def raise_attempt(self, run_id: RunId, attempt: Attempt) -> Fence:
        """Fence off lower attempts, and whoever else has this one.

        A wiped Redis has no fence, so anybody may put up one there. It is good for writing only
        once its holder has looked into the log *after* this call, and has found no higher attempt.
        Raises StaleAttempt if a higher attempt's fence stands.
        """
        ...

    async def tail(self, run_id: RunId, fence: Fence, index: int) -> ChunkTail | None:
        """What is there from `index` on, whoever wrote it; None = nothing is.

        `first + len(frames)` is the next index in any case: with no frames, `first` is. `first`
        is above `index` where the stream begins later, and below it where it ends before.
        Raises StaleAttempt and FenceDown as `write` does.
        """
        ...

    async def write(self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]) -> bool:
        """Put `frames` at `index` … in one call. False = `index` is not the next one.

        A stream without frames begins at 0 only: at any other index the answer is False, and the
        writer restarts from what it has in memory. Raises StaleAttempt if a higher attempt's fence
        stands, and FenceDown if this one does not: Redis was wiped, or another call raised it.
        """
        ...

    async def restart(
        self, run_id: RunId, fence: Fence, index: int, frames: Sequence[bytes]
    ) -> None:
        """Forget what is there and begin again at `index`: what came before is in the log.

        Raises StaleAttempt and FenceDown as `write` does.
        """
        ...

    async def read(self, run_id: RunId, index: int, *, count: int) -> ChunkTail | None:
        """Up to `count` frames from `index`; None = no stream, or `index` is before its base."""
        ...

    async def next_index(self, run_id: RunId) -> int | None:
        """The index that the next frame will take; None = no stream."""
        ...

    def watch(
        self, run_id: RunId
    ) -> AbstractAsyncContextManager[Callable[[float], Awaitable[None]]]:
        """`async with watch(run) as changed: await changed(timeout_seconds)` waits for a wake.

        A wake is a hint: it may come without a change, and a change may come without it.
        """
        ...

    async def wake(self, run_id: RunId) -> None:
        """Tell watchers that something happened that is not a chunk (an end, a cancel)."""
        ...

    async def expire(self, run_id: RunId, *, seconds: int) -> None: ...


# ------------------------------------------------------------------------------ jobs


JobKind = Literal["run"]
Cause: TypeAlias = Literal["fresh", "resent", "handover"]


class Job(Struct, frozen=True):
    """One entry of the job stream. `cause` says why it is there and decides about `resumed`:

    `fresh` from the API; `resent` by the reconciler; `handover` from a worker that is stopping.
    """

    kind: JobKind
    id: str
    account_id: str
    cause: Cause = "fresh"


JOB_DELAY_SECONDS_MAX: Final = 30 * 24 * 60 * 60


def checked_delay_ms(delay_seconds: float) -> int:
    """Milliseconds. Raises ValueError outside 0 … JOB_DELAY_SECONDS_MAX."""
    if not 0 <= delay_seconds <= JOB_DELAY_SECONDS_MAX:
        raise ValueError(f"a job is delayed by 0 to {JOB_DELAY_SECONDS_MAX} seconds")
    return math.ceil(delay_seconds * 1000)


class JobQueue(Protocol):
    """Every method raises QueueUnavailable on doubt; asking again changes nothing more."""

    async def send(self, job: Job, *, delay_seconds: float = 0.0) -> bool:
        """False = a job of that kind and id is already there, and stays as it is.

        It may be running, queued, delayed, or waiting until its account's share is smaller.
        Raises ValueError for a delay outside 0 … JOB_DELAY_SECONDS_MAX.
        """
        ...

    async def cancel(self, kind: JobKind, job_id: str) -> bool:
        """Take out a job that no worker has begun, delayed or not. False = there is none.

        A worker that runs one is told in another way, `CancelPush`.
        """
        ...

    async def hasten(self, kind: JobKind, job_id: str) -> bool:
        """A delayed job is due now. False = none of that name is delayed."""
        ...

    async def missing(self, kind: JobKind, ids: Sequence[str]) -> tuple[str, ...]:
        """Those of `ids` that have no job, whatever it is doing."""
        ...


class CancelPush(Protocol):
    async def push(self, run_id: RunId) -> None:
        """Tell the worker that holds the run; best effort, the log is the truth."""
        ...
