"""The moment in which a shadow that has caught up takes its view's place, and the wait for it.

The projector stands still for that moment, because the checkpoint's row is locked; readers wait
for the renames alone, and never longer than LOCK_WAIT.
"""

import time
from typing import Final

import psycopg

from runs_domain.ids import Position
from runs_domain.storage.connection import Connection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.long_work import LongConnection, ServerFailed, Show
from runs_domain.storage.projection import ADVANCE
from runs_domain.storage.rebuild_catch_up import CatchUp
from runs_domain.storage.rebuild_likeness import Likeness, differing, hindrances, likeness
from runs_domain.storage.rebuild_shadow import drop, index_names, replaced_of, swap_statements
from runs_domain.storage.rebuild_state import HANGED_ON, CannotRebuild
from runs_domain.storage.view_folds import CannotFold

LAST_EVENTS_MAX: Final = 500
"""What is left for the moment of the swap."""
LOCK_WAIT: Final = "100ms"
"""For a lock that others queue behind."""
VACUUM_WAIT: Final = "3s"
"""For one that nobody but a vacuum and its like queues behind. It is longer than PostgreSQL's
`deadlock_timeout`, after which an autovacuum that is in somebody's way is cancelled."""
SWAP_SECONDS_MAX: Final = 3600.0
"""How long a swap waits for whoever reads a view in a long transaction, a dump say."""
SWAP_PAUSE_SECONDS: Final = (0.05, 2.0)
"""Between two tries: the first, and the longest. Others queue behind each try for a moment."""
BLOCKED_NOTE_SECONDS: Final = 3.0

_CHECKPOINT: Final = "SELECT position FROM checkpoints WHERE name = %s FOR UPDATE"
_SWAPPED: Final = "DELETE FROM view_rebuilds WHERE view = %s"
_BLOCKERS: Final = """
SELECT DISTINCT coalesce(
    nullif(application_name, ''), nullif(backend_type, 'client backend'), 'a client'
) || ' (pid ' || pid || ')'
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE relation IN (to_regclass(%s), to_regclass(%s), to_regclass(%s))
    AND granted AND pid <> pg_backend_pid() AND xact_start < now() - interval '1 second'
ORDER BY 1
"""


class Behind(Exception):
    """There is more to catch up on than fits into the moment of a swap."""


async def follow(one: CatchUp, show: Show) -> None:
    """To the log's end. Raises what CatchUp does."""
    while (taken := await one.advance()).goes_on:
        show.advance(taken.events)


async def swap_in(owner: LongConnection, one: CatchUp, like: Likeness, show: Show) -> float:
    """For how many seconds readers may have waited. Raises CannotRebuild if somebody else's lock
    does not end or the tables are no longer `like`, and what CatchUp raises.
    """
    begun = time.monotonic()
    pause, longest = SWAP_PAUSE_SECONDS
    told = False
    while time.monotonic() - begun < SWAP_SECONDS_MAX:
        try:
            seconds = await _try(owner, one, like)
        except (Behind, CannotFold):  # following finds the event itself that cannot be folded
            await follow(one, show)
            continue
        if seconds is not None:
            return seconds
        if not told and time.monotonic() - begun > BLOCKED_NOTE_SECONDS:
            told = True
            show.note(f"{one.name} waits for {await _blockers(owner, one)}")
        await SystemClock().sleep(pause)
        pause = min(2 * pause, longest)
        await follow(one, show)
    raise CannotRebuild(
        f"{one.name} could not be swapped in within {SWAP_SECONDS_MAX:g} s, because of"
        f" {await _blockers(owner, one)}; ask again to go on from here"
    )


async def _try(owner: LongConnection, one: CatchUp, like: Likeness) -> float | None:
    """None = somebody has a lock that it needs. Raises Behind."""

    async def work(connection: Connection) -> float:
        async with connection.transaction():
            begun, position = await _in_place(connection, owner, one, like)
        one.position = position
        return time.monotonic() - begun

    try:
        return await owner.run(work, doing=f"swapping {one.name}")
    except ServerFailed as error:
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            return None
        if isinstance(error.__cause__, psycopg.errors.DependentObjectsStillExist):
            replaced = replaced_of(one.name)
            raise CannotRebuild(f"{replaced} cannot be dropped: {HANGED_ON}") from error
        raise


async def _in_place(
    connection: Connection, owner: LongConnection, one: CatchUp, like: Likeness
) -> tuple[float, Position]:
    """Since when readers may wait, and the view's new position; the caller's transaction commits
    it.
    """

    async def do(statement: str, *values: object) -> None:
        await connection.execute(statement.encode(), values or None)

    name = one.name
    await do(f"SET LOCAL lock_timeout = '{VACUUM_WAIT}'")
    await do(f"LOCK TABLE {name}, {one.shadow} IN SHARE UPDATE EXCLUSIVE MODE")
    await do(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
    await do("SET LOCAL synchronous_commit = on")
    await drop(owner, [replaced_of(name)])
    await do(_CHECKPOINT, name)
    await one.drop_erased(connection)
    taken = await one.take(connection, LAST_EVENTS_MAX)
    if taken.goes_on:
        raise Behind
    begun = time.monotonic()
    await do(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
    await _check(owner, one, like)
    await one.drop_erased(connection)
    await do(swap_statements(name, like))
    await do(ADVANCE, taken.position, name)
    await do(_SWAPPED, name)
    return begun, taken.position


async def _check(owner: LongConnection, one: CatchUp, like: Likeness) -> None:
    """What was put on the view meanwhile, or taken off it, must not be lost."""
    lost = await hindrances(owner, one.name)
    if lost:
        raise CannotRebuild(
            f"{one.name} has what a rebuild would lose: {', '.join(lost)};"
            " take it off, ask again to go on from here, and put it on again after"
        )
    for table, names in ((one.name, None), (one.shadow, index_names(one.name, like))):
        unlike = differing(like, await likeness(owner, table, names))
        if unlike:
            raise CannotRebuild(
                f"{table} was altered meanwhile ({', '.join(unlike)}), so {one.name} was not"
                " swapped; --restart begins anew"
            )


async def _blockers(owner: LongConnection, one: CatchUp) -> str:
    tables = (one.name, one.shadow, replaced_of(one.name))
    found = [who for (who,) in await owner.fetch(_BLOCKERS, tables)]
    return ", ".join(found) or "somebody's lock on it"
