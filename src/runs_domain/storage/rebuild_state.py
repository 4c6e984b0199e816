"""Who rebuilds, how far it is, and what was left behind."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import psycopg

from runs_domain.errors import RunledgerError
from runs_domain.settings import Secret
from runs_domain.storage import rebuild_book as book
from runs_domain.storage import rebuild_shadow as shadows
from runs_domain.storage.long_work import NOTICED, LongConnection, ServerFailed, open_session
from runs_domain.storage.postgres_log import READ_SETTINGS
from runs_domain.storage.rebuild_book import Entry
from runs_domain.storage.rebuild_load import NAME
from runs_domain.storage.views import all_views

DROP_WAIT: Final = "2s"
DROP_TRIES_MAX: Final = 5
HANGED_ON: Final = "something hangs on it"

INDEX_MEMORY: Final = "256MB"
"""Of PostgreSQL's, for each index that is built at once."""
OWNER: Final = {
    **NOTICED,
    "timezone": "UTC",
    "synchronous_commit": "off",
    "maintenance_work_mem": INDEX_MEMORY,
    **READ_SETTINGS,
    "client_min_messages": "warning",
}
_LOCK: Final = "SELECT pg_try_advisory_lock(%s)"
_HOLDER: Final = """
SELECT pid, backend_start FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND database = (
    SELECT oid FROM pg_database WHERE datname = current_database())
    AND ((classid::bigint << 32) | objid::bigint) = %s
"""


class CannotRebuild(RunledgerError):
    """The message is for operators."""


class State(msgspec.Struct, frozen=True):
    """Of the rebuild that is under way, or was left behind."""

    entries: tuple[Entry, ...]
    progress: book.Progress | None
    owner_pid: int | None
    """Of the session in PostgreSQL; None = nobody is at it."""


async def state(url: Secret) -> State:
    """Raises StoreUnavailable, ServerFailed."""
    async with open_session(url, name=NAME, parameters=OWNER) as owner:
        return await state_of(owner)


async def discard(url: Secret) -> bool:
    """Throw away what a rebuild left behind; False if there was nothing. Raises CannotRebuild while
    one is under way.
    """
    async with alone(url) as owner:
        return await throw_away(owner)


@asynccontextmanager
async def alone(url: Secret) -> AsyncIterator[LongConnection]:
    """The owner's session with the lock that says that nobody else rebuilds."""
    async with open_session(url, name=NAME, parameters=OWNER) as owner:
        ((mine,),) = await owner.fetch(_LOCK, (book.REBUILD_LOCK,))
        if not mine:
            raise CannotRebuild(f"another rebuild is under way: {describe(await state_of(owner))}")
        yield owner


async def state_of(owner: LongConnection) -> State:
    some = await book.entries(owner)
    holders = await owner.fetch(_HOLDER, (book.REBUILD_LOCK,))
    progress = await book.progress(owner, some[0].rebuild_id) if some else None
    return State(some, progress, next((pid for pid, _ in holders), None))


def describe(found: State) -> str:
    """In words, for operators."""
    if not found.entries or found.progress is None:
        return "it has just begun"
    first, progress = found.entries[0], found.progress
    share = 100 if not progress.events else round(100 * progress.loaded / progress.events)
    views = ", ".join(one.view for one in found.entries)
    begun = first.started_at.isoformat(sep=" ", timespec="seconds")
    since = "" if first.from_position is None else f" from position {first.from_position}"
    return f"{views}{since}, begun {begun}, {share} % loaded, in phase {first.phase}"


async def drop_replaced(owner: LongConnection) -> Mapping[str, str]:
    """Drop what swaps have left over. Which of those tables stay, and why."""
    stay = {}
    for view in all_views():
        table = shadows.replaced_of(view.name)
        why = await _why_they_stay(owner, [table])
        if why is not None:
            stay[table] = why
    return stay


async def throw_away(owner: LongConnection) -> bool:
    """What a rebuild left behind, all of it; False if there was nothing. Raises CannotRebuild."""
    some = await book.entries(owner)
    await drop_replaced(owner)
    tables = [shadows.shadow_of(view.name) for view in all_views()]
    why = await _why_they_stay(owner, tables, with_book=True)
    if why is not None:
        raise CannotRebuild(f"what was left behind stays, because {why}; nothing was thrown away")
    return bool(some)


async def _why_they_stay(
    owner: LongConnection, tables: Sequence[str], *, with_book: bool = False
) -> str | None:
    """None = they are dropped, all at once."""
    for _ in range(DROP_TRIES_MAX):
        try:
            async with owner.connection.transaction():
                await owner.do(f"SET LOCAL lock_timeout = '{DROP_WAIT}'")
                await shadows.drop(owner, tables)
                if with_book:
                    await book.forget(owner)
        except ServerFailed as error:
            if isinstance(error.__cause__, psycopg.errors.DependentObjectsStillExist):
                return HANGED_ON
            if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                raise
        else:
            return None
    return "it is still being read"
