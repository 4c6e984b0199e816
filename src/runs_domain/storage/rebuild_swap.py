"""Waits for the moment in which a shadow that has caught up can take its view's place."""

import time
from typing import Final

from runs_domain.storage.identity import SystemClock
from runs_domain.storage.long_work import LongConnection, Show
from runs_domain.storage.rebuild_catch_up import LAST_EVENTS_MAX, Behind, CatchUp
from runs_domain.storage.rebuild_likeness import Likeness
from runs_domain.storage.rebuild_state import CannotRebuild

SWAP_SECONDS_MAX: Final = 3600.0
"""How long a swap waits for whoever reads a view in a long transaction, a dump say."""
SWAP_PAUSE_SECONDS: Final = (0.05, 2.0)
"""Between two tries: the first, and the longest. Others queue behind each try for a moment."""
BLOCKED_NOTE_SECONDS: Final = 3.0

_BLOCKERS: Final = """
SELECT DISTINCT coalesce(nullif(application_name, ''), 'a client') || ' (pid ' || pid || ')'
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE relation = %s::regclass AND granted AND pid <> pg_backend_pid()
    AND xact_start < now() - interval '1 second'
ORDER BY 1
"""


async def follow(one: CatchUp, show: Show) -> None:
    """To where a swap can take what is left."""
    while (taken := await one.advance()) > LAST_EVENTS_MAX:
        show.advance(taken)


async def swap_in(owner: LongConnection, one: CatchUp, like: Likeness, show: Show) -> float:
    """For how many seconds readers may have waited. Raises CannotRebuild if somebody else's lock
    does not end, and what CatchUp raises.
    """
    begun = time.monotonic()
    pause, longest = SWAP_PAUSE_SECONDS
    told = False
    while time.monotonic() - begun < SWAP_SECONDS_MAX:
        try:
            seconds = await one.swap(like)
        except Behind:
            await follow(one, show)
            continue
        if seconds is not None:
            return seconds
        if not told and time.monotonic() - begun > BLOCKED_NOTE_SECONDS:
            told = True
            show.note(f"{one.name} waits for {await _blockers(owner, one.name)}")
        await SystemClock().sleep(pause)
        pause = min(2 * pause, longest)
        await follow(one, show)
    raise CannotRebuild(
        f"{one.name} could not be swapped in within {SWAP_SECONDS_MAX:g} s, because of"
        f" {await _blockers(owner, one.name)}; ask again to go on from here"
    )


async def _blockers(owner: LongConnection, view: str) -> str:
    found = [who for (who,) in await owner.fetch(_BLOCKERS, (view,))]
    return ", ".join(found) or "somebody's lock on it"
