"""Makes views anew from the log, beside the ones that are read, and swaps them in.

One pass over the log fills the shadows of all views that are asked for, up to a pinned position;
then indexes, what came meanwhile, and the swap. A rebuild that was killed goes on where it was.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

import runs_domain
from runs_domain.ids import Position
from runs_domain.keys import ServerSecrets
from runs_domain.settings import Secret
from runs_domain.storage import rebuild_book as book
from runs_domain.storage import rebuild_shadow as shadows
from runs_domain.storage import run_ranges
from runs_domain.storage.data_key_rows import PostgresDataKeys
from runs_domain.storage.identity import SystemClock, uuid7
from runs_domain.storage.lean_reads import log_end
from runs_domain.storage.long_work import LongConnection, Show
from runs_domain.storage.rebuild_book import Entry
from runs_domain.storage.rebuild_catch_up import CatchUp
from runs_domain.storage.rebuild_indexes import Indexes
from runs_domain.storage.rebuild_likeness import Likeness, as_text, hindrances, likeness
from runs_domain.storage.rebuild_load import LoadJob, load
from runs_domain.storage.rebuild_pool import in_processes
from runs_domain.storage.rebuild_shadow import replaced_of
from runs_domain.storage.rebuild_state import (
    HANGED_ON,
    CannotRebuild,
    alone,
    describe,
    drop_replaced,
    state_of,
    throw_away,
)
from runs_domain.storage.rebuild_swap import follow, swap_in
from runs_domain.storage.sealing import DataKeys
from runs_domain.storage.views import named

LEFT_PAUSE_SECONDS: Final = 0.5
LEFT_TRIES_MAX: Final = 20
"""Of ranges that a dying worker of a killed rebuild still holds."""

_POSITIONS: Final = "SELECT name, position FROM checkpoints WHERE name = ANY(%s)"


class Asked(msgspec.Struct, frozen=True):
    views: tuple[str, ...]
    workers: int
    from_position: Position | None = None
    restart: bool = False


class Rebuilt(msgspec.Struct, frozen=True, rename="camel"):
    """What a rebuild came to; `events` were folded by this process, `swap_ms` by view."""

    views: tuple[str, ...]
    events: int
    seconds: float
    load_seconds: float
    pinned_position: Position
    positions: Mapping[str, Position]
    swap_ms: Mapping[str, float]
    resumed: bool


async def rebuild(url: Secret, secrets: ServerSecrets, asked: Asked, show: Show) -> Rebuilt:
    """Raises CannotRebuild, CannotFold, Unreadable, WorkerFailed, ServerFailed, StoreUnavailable:
    then the views are as they were, but for those that were swapped in already.
    """
    async with alone(url) as owner:
        return await _Rebuild(owner, url, secrets, asked, show).run()


class _Rebuild:
    def __init__(
        self, owner: LongConnection, url: Secret, secrets: ServerSecrets, asked: Asked, show: Show
    ) -> None:
        self._owner = owner
        self._url = url
        self._secrets = secrets
        self._asked = asked
        self._show = show
        self._data_keys = DataKeys(PostgresDataKeys(owner), secrets, SystemClock())
        self._likeness: dict[str, Likeness] = {}
        self._events = 0

    async def run(self) -> Rebuilt:
        begun = time.monotonic()
        stay = await self._drop_replaced()
        for view in self._asked.views:
            table = replaced_of(view)
            if stay.get(table) == HANGED_ON:
                raise CannotRebuild(f"{table} cannot be dropped: {HANGED_ON}; take that off before")
        entries, resumed = await self._entries()
        loading = time.monotonic()
        await self._load(entries)
        loaded = time.monotonic()
        await self._build_indexes(entries)
        caught_up = [await self._catch_up(entry) for entry in entries]
        swap_ms: dict[str, float] = {}
        for one in caught_up:
            swap_ms[one.name] = round(1000 * await self._swap(one), 1)
            await self._drop_replaced()
        await book.forget(self._owner)
        return Rebuilt(
            views=tuple(entry.view for entry in entries),
            events=self._events,
            seconds=time.monotonic() - begun,
            load_seconds=loaded - loading,
            pinned_position=entries[0].pinned_position,
            positions={one.name: one.position for one in caught_up},
            swap_ms=swap_ms,
            resumed=resumed,
        )

    async def _drop_replaced(self) -> Mapping[str, str]:
        stay = await drop_replaced(self._owner)
        for table, why in stay.items():
            self._show.note(f"{table} stays until a later rebuild, because {why}")
        return stay

    # -------------------------------------------------------------------------- begin

    async def _entries(self) -> tuple[Sequence[Entry], bool]:
        """What there is to do, and whether it goes on with what was left behind."""
        for view in self._asked.views:
            self._likeness[view] = await likeness(self._owner, view)
            lost = await hindrances(self._owner, view)
            if lost:
                raise CannotRebuild(
                    f"{view} has what a rebuild would lose: {', '.join(lost)};"
                    " take it off before, and put it on again after"
                )
        left = await book.entries(self._owner)
        if left and not self._asked.restart and self._is_the_same(left):
            why_not = await self._why_not_go_on(left)
            if why_not is None:
                self._show.note(f"going on with {describe(await state_of(self._owner))}")
                return left, True
            self._show.note(f"beginning anew: {why_not}")
        elif left and not self._asked.restart:
            raise CannotRebuild(
                f"another rebuild was left behind ({describe(await state_of(self._owner))}):"
                f" ask for {', '.join(left[0].asked)} again to finish it, or --restart to throw it"
                " away and begin with this one"
            )
        await throw_away(self._owner)
        return await self._begin(), False

    def _is_the_same(self, left: Sequence[Entry]) -> bool:
        first = left[0]
        return (
            set(first.asked) == set(self._asked.views)
            and first.from_position == self._asked.from_position
        )

    async def _why_not_go_on(self, left: Sequence[Entry]) -> str | None:
        if left[0].release != release():
            return "what was left behind is another release's"
        changed = [one.view for one in left if one.likeness != self._digest(one.view)]
        if changed:
            return f"{', '.join(changed)} was altered since"
        missing = await shadows.missing(self._owner, [one.view for one in left])
        return f"{', '.join(missing)} is no longer there" if missing else None

    def _digest(self, view: str) -> str:
        return hashlib.sha256(as_text(self._likeness[view]).encode()).hexdigest()

    async def _begin(self) -> Sequence[Entry]:
        self._show.phase("plan")
        end = await log_end(self._owner)
        changed_after = await self._changed_after(end)
        rebuild_id = uuid7()
        entries = [
            Entry(
                view=view,
                rebuild_id=rebuild_id,
                started_at=SystemClock().now(),
                release=release(),
                likeness=self._digest(view),
                asked=list(self._asked.views),
                from_position=self._asked.from_position,
                changed_after=changed_after,
                pinned_position=end,
                position=end,
                phase="load",
            )
            for view in self._asked.views
        ]
        ranges = await run_ranges.plan(self._owner, end)
        async with self._owner.connection.transaction():
            for entry in entries:
                await shadows.create(self._owner, entry.view, self._likeness[entry.view])
            await book.begin(self._owner, entries)
            all_runs = changed_after is None
            await book.add_ranges(self._owner, rebuild_id, ranges, all_runs=all_runs)
        return await book.entries(self._owner)

    async def _changed_after(self, end: Position) -> Position | None:
        """None = everything is made anew. A view that has not come to the position has rows to
        make anew from its own checkpoint on.
        """
        asked = self._asked.from_position
        if asked is None:
            return None
        if asked > end:
            raise CannotRebuild(f"position {asked} is beyond the log's end, which is {end}")
        known: dict[str, Position] = dict(
            await self._owner.fetch(_POSITIONS, (list(self._asked.views),))
        )
        return min(asked, *known.values())

    # -------------------------------------------------------------------------- load, index

    async def _load(self, entries: Sequence[Entry]) -> None:
        first = entries[0]
        job = LoadJob(
            url=self._url,
            secrets=self._secrets,
            rebuild_id=first.rebuild_id,
            views=tuple(entry.view for entry in entries),
            pinned=first.pinned_position,
            changed_after=first.changed_after,
        )
        for _ in range(LEFT_TRIES_MAX):
            progress = await book.progress(self._owner, first.rebuild_id)
            if not progress.ranges_left:
                return
            self._show.phase("load", total=progress.events, done=progress.loaded)
            workers = min(self._asked.workers, progress.ranges_left)
            taken = self._events
            await in_processes(load, job, workers, self._took)
            if self._events == taken:
                # A worker of a rebuild that was killed ends within a moment, or commits its range.
                await SystemClock().sleep(LEFT_PAUSE_SECONDS)
        raise CannotRebuild("ranges stay locked by a session of a rebuild that was killed")

    def _took(self, events: int) -> None:
        self._events += events
        self._show.advance(events)

    async def _build_indexes(self, entries: Sequence[Entry]) -> None:
        views = [entry.view for entry in entries if entry.phase in {"load", "index"}]
        if views:
            indexes = Indexes(self._url, self._likeness, self._asked.workers, self._show)
            await indexes.build(self._owner, views)

    # -------------------------------------------------------------------------- catch up, swap

    async def _catch_up(self, entry: Entry) -> CatchUp:
        (view,) = named([entry.view])
        one = CatchUp(self._owner, view, self._data_keys, entry)
        self._show.phase(f"catch up {entry.view}")
        await follow(one, self._show)
        return one

    async def _swap(self, one: CatchUp) -> float:
        self._show.phase(f"swap {one.name}")
        await book.set_phase(self._owner, [one.name], "swap")
        return await swap_in(self._owner, one, self._likeness[one.name], self._show)


def release() -> str:
    """What this release's folds are: rows of two different ones are never mixed."""
    digest = hashlib.sha256()
    for path in sorted(Path(str(runs_domain.__file__)).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
