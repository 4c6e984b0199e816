"""The steps of an erasure, in an order in which any of them may be the last one.

Nothing is lost by a crash between two: each may be taken again, and whoever starts anew takes all.
Until the key is destroyed nothing that anybody wants back is gone, but the account's way in; from
then on what is left lies about unreadable, and is cleared by the steps that follow.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from erasing.files import clear_exports, clear_sandboxes
from erasing.receipt import Receipt
from operating.counted import many
from redis.exceptions import RedisError

from runs_domain.commands import RequestCancel
from runs_domain.errors import (
    HistoryCorrupt,
    QueueUnavailable,
    Refused,
    StoreUnavailable,
    UnknownSecretVersion,
    VersionConflict,
)
from runs_domain.handle import handle
from runs_domain.ids import AccountId, Position, RunId, sandbox_name
from runs_domain.ports import Clock, Context
from runs_domain.run import FIRST_ATTEMPT
from runs_domain.settings import Settings
from runs_domain.storage import redis_names as names
from runs_domain.storage.erasure import NOT_COVERED, Erasure, OpenRun, TableBusy
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.redis_chunks import bar, forget
from runs_domain.storage.redis_client import PipelinedRedis
from runs_domain.storage.redis_files import FilesNotWritten, write_anew
from runs_domain.storage.redis_jobs import RedisJobs
from runs_domain.storage.redis_push import RedisCancelPush
from runs_domain.storage.sealing import DATA_KEY_SECONDS_MAX

LOOK_SECONDS: Final = 0.2
BUSY_TRIES_MAX: Final = 60
"""For a table that others hold; each waits `erasure.LOCK_SECONDS_MAX`, then makes way for them."""
SNAPSHOT_SECONDS_MAX: Final = 30.0
"""How long transactions that began before may go on seeing the old rows."""
IN_HAND_SECONDS: Final = 5.0
"""How long whoever has just taken a key from its cache may still use it."""
RUNS_NAMED_MAX: Final = 10
NOT_REWRITTEN: Final = (
    "free space in the files of the tables accounts and account_data_keys, which are large: it may"
    " have pieces of the name and the wrapped key; --rewrite in a quiet hour"
)
WHY: Final = "the account is erased"


class StillLiveError(Exception):
    """The key was not destroyed, because somebody may still write. A sentence for operators."""


class Erasing:
    def __init__(
        self,
        erasure: Erasure,
        log: PostgresEventLog,
        redis: PipelinedRedis,
        clock: Clock,
        settings: Settings,
        *,
        account: AccountId,
        by: str,
        wait_seconds: float,
        force: bool,
        however_large: bool,
        say: Callable[[str], None],
        cached_seconds: float = DATA_KEY_SECONDS_MAX + IN_HAND_SECONDS,
    ) -> None:
        """`by` is the actor; `cached_seconds`: how long any process may go on with the key."""
        self._erasure = erasure
        self._log = log
        self._redis = redis
        self._clock = clock
        self._settings = settings
        self._account = account
        self._by = by
        self._wait_seconds = wait_seconds
        self._force = force
        self._however_large = however_large
        self._say = say
        self._cached_seconds = cached_seconds
        self._asked: set[RunId] = set()
        self._left: dict[str, list[str]] = {}
        """By step, so that one that is taken twice tells how it is now."""
        self._not_covered: list[str] = []

    # ---------------------------------------------------------------------------- the way in

    async def begin(self) -> None:
        await self._erasure.begin(self._by)

    async def shut_out(self) -> None:
        """No new runs, and nobody who could read. Taken once more when no process has the key: an
        operator may have let somebody in, or given a name, while runs were waited for.
        """
        await self._erasure.shut_out()

    async def end_runs(self) -> None:
        """Cancel what is live, and wait for the ends. Raises StillLiveError, unless forced."""
        live = await self._ended_within(self._wait_seconds)
        if live and not self._force:
            sentence = (
                f"{many(len(live), 'live run')} did not end, so the data key was not destroyed:"
                f" {_named(live)}. Run it again later, or --force it"
            )
            self._left["runs"] = [sentence]
            raise StillLiveError(sentence)

    async def end_late_runs(self) -> None:
        """Those of requests that were on their way in when the door was shut."""
        live = await self._ended_within(self._wait_seconds)
        sentence = "may stream content to Redis until they end: run this again when they have"
        self._left["runs"] = (
            [f"{many(len(live), 'live run')} {sentence}: {_named(live)}"] if live else []
        )

    async def _ended_within(self, seconds: float) -> tuple[OpenRun, ...]:
        """Those that are live all the same. Ended ones get their time to release sandboxes."""
        deadline = self._clock.monotonic_seconds() + seconds
        told = False
        while True:
            runs = await self._erasure.open_runs()
            for run in runs:
                if run.live and run.run_id not in self._asked:
                    await self._cancel(run.run_id)
            if not runs or self._clock.monotonic_seconds() >= deadline:
                return tuple(run for run in runs if run.live)
            if not told:
                self._say(f"waiting for {many(len(runs), 'run')} to end, {seconds:g} s at most")
                told = True
            await self._clock.sleep(LOOK_SECONDS)

    async def _cancel(self, run_id: RunId) -> None:
        """As the API does it."""
        try:
            handled = await handle(
                self._log, run_id, RequestCancel(by=self._by, why=WHY), self._context()
            )
        except (HistoryCorrupt, UnknownSecretVersion) as error:
            self._asked.add(run_id)
            self._say(f"run {run_id} cannot be cancelled: {type(error).__name__}")
            return
        except (VersionConflict, Refused):
            return  # it is looked at again in a moment
        self._asked.add(run_id)
        if handled.recorded:
            await self._erasure.count("runs_cancelled", 1)
        await RedisCancelPush(self._redis).push(run_id)
        await RedisJobs(self._redis).hasten("run", str(run_id))
        try:
            await self._redis.publish(names.wake_channel(run_id), b"")
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"wake: {type(error).__name__}") from error

    def _context(self) -> Context:
        about = f"erasure:{self._account}"
        return Context(
            actor=self._by,
            subject=self._account,
            correlation=about,
            causation=about,
            attempt=FIRST_ATTEMPT,
        )

    # ---------------------------------------------------------------------------- the key

    async def destroy_key(self) -> None:
        """The point of no return, on record with what the history is at that moment."""
        before = await self._erasure.heads_before() or await self._erasure.heads()
        await self._erasure.destroy_key(before, self._settings.secret_version)

    async def outlive_caches(self) -> None:
        """Processes keep data keys in memory for a while: until then one may write under it."""
        seconds = await self._erasure.seconds_in_caches(self._cached_seconds)
        if seconds:
            self._say(f"waiting {seconds:.0f} s until no process has the key in memory any more")
            await self._clock.sleep(seconds)

    # ---------------------------------------------------------------------------- what is left

    async def clear(self) -> None:
        """Once at once, and once when nobody has the key any more."""
        await self._clear_views()
        await self._clear_streams_and_sandboxes()
        exports = clear_exports(self._settings.data_dir, self._account)
        self._left["exports"] = exports.left
        await self._erasure.count("export_bundles", exports.count)

    async def _clear_views(self) -> None:
        busy = await self._until_free(self._erasure.clear_views)
        sentence = "is a rebuild under way? Run this again after it"
        self._left["views"] = [f"{busy}: {sentence}"] if busy else []

    async def _clear_streams_and_sandboxes(self) -> None:
        live = {run.run_id: run.session_id for run in await self._erasure.open_runs() if run.live}
        sandboxes: set[str] = set()
        after, keys = Position(0), 0
        while page := await self._erasure.runs_after(after):
            ended = [run for run in page if run.run_id not in live]
            keys += await bar(self._redis, [run.run_id for run in ended if run.recent])
            others = [run.run_id for run in page if not run.recent or run.run_id in live]
            keys += await forget(self._redis, others)
            sandboxes |= {sandbox_name(run.session_id) for run in page}
            after = page[-1].position
        await self._erasure.count("chunk_keys", keys)
        in_use = {sandbox_name(session) for session in live.values()}
        cleared = await clear_sandboxes(self._settings.data_dir, self._account, sandboxes, in_use)
        self._left["sandboxes"] = cleared.left
        await self._erasure.count("sandboxes", cleared.count)

    async def rewrite(self) -> None:
        """A row that was replaced still lies in its table's file; so do the name and the key."""
        deadline = self._clock.monotonic_seconds() + SNAPSHOT_SECONDS_MAX
        while seen_by := await self._erasure.snapshots():
            if self._clock.monotonic_seconds() >= deadline:
                self._left["files"] = [
                    f"old rows cannot go while {one} may read them: run this again after it"
                    for one in seen_by
                ]
                return
            await self._clock.sleep(LOOK_SECONDS)
        busy = await self._until_free(self._rewrite)
        self._left["files"] = [f"{busy}: run this again"] if busy else []

    async def _rewrite(self) -> None:
        if not await self._erasure.rewrite(however_large=self._however_large):
            self._not_covered.append(NOT_REWRITTEN)

    async def write_redis_anew(self) -> None:
        """Its append-only file still has every word that was streamed, until it is rewritten."""
        self._left["Redis"] = []
        try:
            refused = await write_anew(self._redis, self._clock)
        except FilesNotWritten as error:
            self._left["Redis"] = [f"{error}: run this again"]
        else:
            self._not_covered += [refused] if refused else []

    async def _until_free(self, work: Callable[[], Awaitable[None]]) -> TableBusy | None:
        for tries_left in reversed(range(BUSY_TRIES_MAX)):
            try:
                await work()
            except TableBusy as busy:
                if not tries_left:
                    return busy
                await self._clock.sleep(LOOK_SECONDS)
            else:
                return None
        raise AssertionError("the loop returns")

    # ---------------------------------------------------------------------------- the receipt

    async def finish(self) -> None:
        if not any(self._left.values()) and await self._is_untouched():
            await self._erasure.finish()

    async def _is_untouched(self) -> bool:
        before = await self._erasure.heads_before()
        return before is not None and before == await self._erasure.heads(before.position)

    async def receipt(self) -> Receipt:
        record = await self._erasure.record()
        if record is None:
            raise StoreUnavailable("the erasure is not on record")
        before = await self._erasure.heads_before()
        return Receipt(
            account=self._account,
            record=record,
            before=before,
            after=None if before is None else await self._erasure.heads(before.position),
            left=[sentence for left in self._left.values() for sentence in left],
            not_covered=(*self._not_covered, *NOT_COVERED),
        )


STEPS: Final[tuple[Callable[[Erasing], Awaitable[None]], ...]] = (
    Erasing.begin,
    Erasing.shut_out,
    Erasing.end_runs,
    Erasing.destroy_key,
    Erasing.clear,
    Erasing.outlive_caches,
    Erasing.shut_out,
    Erasing.end_late_runs,
    Erasing.clear,
    Erasing.rewrite,
    Erasing.write_redis_anew,
    Erasing.finish,
)


def _named(runs: tuple[OpenRun, ...]) -> str:
    named = [_hint(run) for run in runs[:RUNS_NAMED_MAX]]
    return ", ".join(named) + (", …" if len(runs) > RUNS_NAMED_MAX else "")


def _hint(run: OpenRun) -> str:
    """A run whose job breaks gets no worker that could end it."""
    return f"{run.run_id} (drop its dead letter)" if run.withheld else str(run.run_id)
