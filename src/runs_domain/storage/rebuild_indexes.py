"""The indexes of full shadows, several at once, and what else is still missing of them."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

from runs_domain.settings import Secret
from runs_domain.storage import rebuild_book as book
from runs_domain.storage import rebuild_shadow as shadows
from runs_domain.storage.long_work import LongConnection, Show, open_session
from runs_domain.storage.rebuild_likeness import Likeness, likeness
from runs_domain.storage.rebuild_load import NAME
from runs_domain.storage.rebuild_state import OWNER

INDEX_SECONDS_MAX: Final = 24 * 3600.0


class Indexes:
    """Of the shadows of `likenesses`, `workers` at once, each on a session of its own.

    Raises ServerFailed, StoreUnavailable.
    """

    def __init__(
        self, url: Secret, likenesses: Mapping[str, Likeness], workers: int, show: Show
    ) -> None:
        self._url = url
        self._likenesses = likenesses
        self._workers = workers
        self._turns = asyncio.Semaphore(workers)
        self._show = show

    async def build(self, owner: LongConnection, views: Sequence[str]) -> None:
        """Those that are still missing; then what else makes the shadows like their views."""
        await book.set_phase(owner, views, "index")
        builds: list[tuple[str, Sequence[str]]] = []
        for view in views:
            builds += await _missing(owner, view, self._likenesses[view])
        self._show.phase("index", total=len(builds) + len(views))
        one_core = {"max_parallel_maintenance_workers": "0"}
        parameters = OWNER | (one_core if min(self._workers, len(builds)) > 1 else {})
        await _all_of([self._build(*one, parameters) for one in builds])
        await _all_of([self._complete(view) for view in views])
        await book.set_phase(owner, views, "catch-up")

    async def _build(
        self, view: str, statements: Sequence[str], parameters: dict[str, str]
    ) -> None:
        async with (
            self._turns,
            open_session(self._url, name=NAME, parameters=parameters) as session,
        ):
            for statement in statements:
                doing = f"building an index of {view}"
                await session.do(statement, doing=doing, seconds_max=INDEX_SECONDS_MAX)
        self._show.advance(1)

    async def _complete(self, view: str) -> None:
        async with self._turns, open_session(self._url, name=NAME, parameters=OWNER) as session:
            await shadows.complete(session, view, self._likenesses[view])
        self._show.advance(1)


async def _missing(
    owner: LongConnection, view: str, like: Likeness
) -> list[tuple[str, Sequence[str]]]:
    """The view, and the statements of an index: all that it takes."""
    shadow = await likeness(owner, shadows.shadow_of(view))
    there = {one["name"] for one in shadow["indexes"]}
    wanted = shadows.index_statements(view, like)
    return [(view, statements) for name, statements in wanted.items() if name not in there]


async def _all_of(tasks: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All at once; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
