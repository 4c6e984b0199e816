"""The group commit: whatever queued while the last commit was under way goes next, together.

One task and one connection a process. A batch is one call of `append_batch`, which holds the
log's lock only while the server works: no client, however slow or stopped, is waited for.

A reply can get lost when the commit did not. Batches are therefore numbered, and the database
keeps a receipt of each: after a lost connection the task first sends an empty batch under the
same number. Either the answer tells what the lost one came to, or it never will come
to anything, and its appends go again. So no append is reported as refused that landed, and none
lands twice. One that breaks its connection again and again, though the server answers in between,
is refused: `suspects` keeps the count.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import psycopg

from runs_domain.errors import AppendBreaks, RunledgerError, StoreUnavailable
from runs_domain.faults import log_fault
from runs_domain.ids import ChatId, Position, RunId
from runs_domain.ports import BEFORE_FIRST, Clock
from runs_domain.settings import Secret
from runs_domain.storage.batch_call import (
    CALL,
    Encoded,
    Landed,
    Receipt,
    parameters,
    refusal_of,
)
from runs_domain.storage.connection import Connection, ReconnectingConnection, ServerRefuses
from runs_domain.storage.receipts import Receipts
from runs_domain.storage.suspects import BREAKS_MAX, Suspects

QUEUED_APPENDS_MAX: Final = 4096
BATCH_APPENDS_MAX: Final = 256
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
BATCH_SECONDS_MAX: Final = 10.0
"""For one commit, waiting for other processes' commits included; then it counts as lost."""
APPEND_WAIT_SECONDS: Final = 2.0
"""How long a caller waits while PostgreSQL cannot be reached, unless its process says otherwise."""
RECONNECT_PAUSE_SECONDS: Final = 0.1
DOUBTS_MAX: Final = 3
"""Lost connections that one append may meet before its caller is told."""

_CONSTRAINTS: Final = {
    "run_heads_one_live_run_a_chat": "chat_busy",
    "api_keys_pkey": "key_taken",
    "api_keys_mac": "key_taken",
    "run_heads_pkey": "version_conflict",
    "stored_events_pkey": "version_conflict",
}

_log = logging.getLogger(__name__)


class Commit(msgspec.Struct, frozen=True):
    """What one batch made visible."""

    run_ids: tuple[RunId, ...]
    last_position: Position


OnCommit = Callable[[Commit], None]

_LINK_CLASS: Final = "08"
"""Of SQLSTATE: what a pooler says before it hangs up on a request that it will not pass on."""


class _Broke(StoreUnavailable):
    """The connection broke while the request was out, and no server said why."""


class _Waiting(msgspec.Struct):
    encoded: Encoded
    answer: "asyncio.Future[Landed]"
    doubts: int = 0

    @property
    def given_up(self) -> bool:
        return self.answer.done()

    def fail(self, error: RunledgerError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Appender:
    """`on_commit` is called after each commit, outside any transaction; it must not block."""

    def __init__(
        self,
        url: Secret,
        clock: Clock,
        *,
        on_commit: OnCommit | None = None,
        wait_seconds: float = APPEND_WAIT_SECONDS,
        queued_appends_max: int = QUEUED_APPENDS_MAX,
    ) -> None:
        self._connection = ReconnectingConnection(
            url,
            name="runledger appends",
            seconds_max=BATCH_SECONDS_MAX,
            # A plan made while the tables were small must not scan them when they have grown.
            parameters={"enable_seqscan": "off", "jit": "off", "TimeZone": "UTC"},
        )
        self._clock = clock
        self._on_commit = on_commit
        self._wait_seconds = wait_seconds
        self._queued_appends_max = queued_appends_max
        self._receipts = Receipts(self._connection)
        self._suspects = Suspects()
        self._queue: deque[_Waiting] = deque()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="runledger appender")

    async def close(self) -> None:
        """Commit what is queued, within BATCH_SECONDS_MAX; then nothing is taken any more."""
        self._closing = True
        self._wanted.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=BATCH_SECONDS_MAX)
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._receipts.close()
        await self._connection.close()

    async def submit(self, encoded: Encoded) -> Landed:
        """Raises what the log refuses with, and StoreUnavailable if it is full or unreachable.

        An append that was not sent when its caller gave up (or was cancelled) never lands.
        """
        if self._closing or self._task is None or self._task.done():
            raise StoreUnavailable("the appender is not running")
        if len(self._queue) >= self._queued_appends_max:
            raise StoreUnavailable(f"{self._queued_appends_max} appends are queued already")
        answer: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(encoded, answer))
        self._wanted.set()
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await answer
        except TimeoutError:
            raise StoreUnavailable(f"no commit within {self._wait_seconds} s") from None

    # -------------------------------------------------------------------------- the task

    async def _run(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while batch := self._take():
                    await self._commit_or_fail(batch)
                    await self._receipts.tidy()
                if self._closing:
                    return
        finally:
            self._fail(self._queue, StoreUnavailable("the appender was closed"))
            self._queue.clear()

    def _take(self) -> list[_Waiting]:
        """The next batch: in the queue's order, within the limits, and no stream, nor a chat that
        begins a run, twice. An append that was in doubt goes alone, also when its caller comes
        with it again: it may be what broke the connection.
        """
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        taken: set[RunId | ChatId] = set()
        size = 0
        while self._queue and len(batch) < BATCH_APPENDS_MAX and size < BATCH_BYTES_MAX:
            one = self._queue.popleft()
            if one.given_up:
                continue
            alone = bool(one.doubts) or one.encoded in self._suspects
            if alone and not batch:
                return [one]
            append = one.encoded.append
            mine: set[RunId | ChatId] = {append.run_id}
            if append.expected_version == BEFORE_FIRST:
                mine.add(append.chat_id)
            is_barred = bool(alone or mine & taken)
            taken |= mine
            if is_barred:
                left.append(one)
                continue
            size += one.encoded.size
            batch.append(one)
        self._queue.extendleft(reversed(left))
        return batch

    async def _commit_or_fail(self, batch: Sequence[_Waiting]) -> None:
        """Whatever happens, no caller is left hanging and the task lives on."""
        try:
            await self._commit(batch)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the writer
            log_fault(_log, f"a batch of {len(batch)} appends failed", error)
            self._fail(batch, StoreUnavailable(f"the commit failed: {type(error).__name__}"))
        except BaseException:
            self._fail(batch, StoreUnavailable("the appender was stopped; nothing is known"))
            raise

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        self._receipts.take_number()
        encoded = [one.encoded for one in batch]
        try:
            receipt = await self._send(encoded)
        except ServerRefuses as error:
            self._fail(batch, error)
            return
        except StoreUnavailable as error:
            _log.warning("a batch of %d appends is in doubt: %s", len(batch), error)
            self._receipts.keep()
            receipt = await self._settle()
            if not receipt.refusals:
                await self._again(batch, broke=isinstance(error, _Broke))
                return
        except Exception as error:  # noqa: BLE001 - whatever it is, no caller may hang
            await self._refuse_or_split(batch, error)
            return
        self._answer(batch, receipt.outcomes(encoded))

    async def _send(self, batch: Sequence[Encoded]) -> Receipt:
        number = self._receipts.number
        values = parameters(self._receipts.writer, number, batch)

        async def call(connection: Connection) -> tuple[Any, ...]:
            try:
                cursor = await connection.execute(CALL, values, prepare=True, binary=True)
            except psycopg.OperationalError as error:
                if connection.closed and (error.sqlstate or _LINK_CLASS).startswith(_LINK_CLASS):
                    raise _Broke("the connection broke, and nothing was said") from None
                raise
            row = await cursor.fetchone()
            if row is None:
                raise StoreUnavailable("append_batch gave no receipt")
            return row

        receipt = Receipt(*await self._connection.run(call))
        if receipt.batch != number:
            raise StoreUnavailable("append_batch gave another batch's receipt")
        return receipt

    async def _settle(self) -> Receipt:
        """What the batch in doubt came to: a receipt of nothing = nothing, for good."""
        while True:
            try:
                return await self._send([])
            except StoreUnavailable:
                await self._clock.sleep(RECONNECT_PAUSE_SECONDS)

    async def _again(self, batch: Sequence[_Waiting], *, broke: bool) -> None:
        """Nothing of the batch landed, says the server: its appends go first, each alone."""
        for one in batch:
            one.doubts += 1
            self._suspects.suspect(one.encoded)
            if broke and len(batch) == 1 and self._suspects.broke(one.encoded):
                _log.error("an append broke its connection %d times", BREAKS_MAX)
                one.fail(AppendBreaks(f"{BREAKS_MAX} connections broke on it; nothing landed"))
            if one.doubts >= DOUBTS_MAX:
                one.fail(StoreUnavailable(f"{DOUBTS_MAX} commits were lost; nothing landed"))
        self._queue.extendleft(reversed(batch))
        await self._clock.sleep(RECONNECT_PAUSE_SECONDS)

    async def _refuse_or_split(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """The transaction is gone. One bad append must not take the others with it."""
        if len(batch) > 1:
            for one in batch:
                if not one.given_up:
                    await self._commit([one])
            return
        self._suspects.clear(one.encoded for one in batch)
        for one in batch:
            one.fail(_refusal(error, one.encoded))

    def _answer(
        self, batch: Sequence[_Waiting], outcomes: Sequence[Landed | RunledgerError]
    ) -> None:
        self._suspects.clear(one.encoded for one in batch)
        landed: list[RunId] = []
        last = Position(0)
        for one, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Landed):
                landed.append(one.encoded.append.run_id)
                last = max(last, outcome.positions[-1])
                if not one.given_up:
                    one.answer.set_result(outcome)
            else:
                one.fail(outcome)
        if landed and self._on_commit is not None:
            try:
                self._on_commit(Commit(tuple(landed), last))
            except Exception as error:  # noqa: BLE001 - a hook must not stop the writer
                log_fault(_log, "on_commit failed; the commit stands", error)

    def _fail(self, appends: Iterable[_Waiting], error: StoreUnavailable) -> None:
        for one in appends:
            one.fail(error)


def _refusal(error: Exception, encoded: Encoded) -> RunledgerError:
    """By name; the database's own sentence may quote values and stays out."""
    if not isinstance(error, psycopg.Error):
        _log.error("an append could not be sent: %s", type(error).__name__)
        return refusal_of(type(error).__name__, encoded.append)
    constraint = error.diag.constraint_name or ""
    code = _CONSTRAINTS.get(constraint)
    if code is not None:
        return refusal_of(code, encoded.append)
    state = error.sqlstate or type(error).__name__
    _log.error("the database refused an append: %s", state)
    return refusal_of(state, encoded.append)
