"""Rebuilds and checks of views as operators start them, and a log to start them on."""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest

from runs_domain import commands as c
from runs_domain.ids import Attempt, Position
from runs_domain.settings import Secret
from runs_domain.storage import rebuild, view_check
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.long_work import open_session
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.rebuild import Asked, Rebuilt
from runs_domain.storage.rebuild_likeness import likeness
from runs_domain.storage.rebuild_pool import Report, Work
from runs_domain.storage.view_check import Checked, CheckJob, Found
from runs_domain.storage.views import all_views
from tests.support import builders
from tests.support.log_streams import SECRETS, Run
from tests.support.operators import environment_of, run_script, started_script
from tests.support.servers import Database, as_owner
from tests.support.views import are_caught_up, projecting
from tests.support.waiting import until
from workers.projector import all_projections

CLOCK = SystemClock()
REBUILD = "rebuild_projections.py"
VERIFY = "verify_views.py"
VIEWS = ("runs", "messages", "credits", "sandboxes")
SCRIPT_SECONDS = 50.0


def run(database: Database, script: str, *arguments: str, **changes: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    env = environment_of(database, owner=True) | changes
    done = run_script(script, *arguments, env=env, seconds_max=SCRIPT_SECONDS)
    return done.returncode, done.stdout, done.stderr


def rebuilding(
    database: Database, *arguments: str
) -> AbstractContextManager["subprocess.Popen[str]"]:
    """Under way; it is killed if it has not ended when the test has."""
    return started_script(REBUILD, *arguments, env=environment_of(database, owner=True))


def rebuilt(database: Database, *arguments: str) -> dict[str, Any]:
    """What a rebuild that goes well says of itself."""
    code, out, err = run(database, REBUILD, "--json", *arguments)
    assert code == 0, err
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said


class Quiet:
    """Shows nothing."""

    def phase(self, name: str, *, total: int | None = None, done: int = 0) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass


async def in_threads(work: Work[Any], job: Any, count: int, took: Report) -> None:
    """`rebuild_pool.in_processes` without the processes, which take long to start."""
    reports: list[Any] = []
    try:
        tasks = [asyncio.to_thread(work, job, number, reports.append) for number in range(count)]
        await asyncio.gather(*tasks)
    finally:
        for report in reports:
            took(report)


async def rebuild_here(
    database: Database,
    *views: str,
    from_position: int | None = None,
    restart: bool = False,
) -> Rebuilt:
    position = None if from_position is None else Position(from_position)
    asked = Asked(views or VIEWS, workers=2, from_position=position, restart=restart)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rebuild, "in_processes", in_threads)
        return await rebuild.rebuild(Secret(database.admin_url), SECRETS, asked, Quiet())


def once_before(
    patch: pytest.MonkeyPatch, module: Any, name: str, do: Callable[[], Awaitable[None]]
) -> None:
    """Something happens right before a step of the rebuild, the first time that it is taken."""
    step = getattr(module, name)

    async def do_and_step(*arguments: Any) -> Any:
        patch.setattr(module, name, step)
        await do()
        return await step(*arguments)

    patch.setattr(module, name, do_and_step)


async def check_here(
    database: Database,
    *views: str,
    from_position: int | None = None,
    to_the_end: bool = False,
    limit: int = 20,
) -> dict[str, Checked]:
    """By view; a fault fails the test."""
    found = await found_here(
        database, *views, from_position=from_position, to_the_end=to_the_end, limit=limit
    )
    assert not found.faults, found.faults
    return {view.name: view for view in found.views}


async def found_here(
    database: Database,
    *views: str,
    from_position: int | None = None,
    to_the_end: bool = False,
    limit: int = 20,
) -> Found:
    job = CheckJob(
        url=Secret(database.url),
        secrets=SECRETS,
        views=views or VIEWS,
        workers=2,
        limit=limit,
        to_the_end=to_the_end,
        changed_after=None if from_position is None else Position(from_position),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view_check, "in_processes", in_threads)
        return await view_check.check_views(job, Quiet())


async def assert_right(database: Database) -> None:
    checked = await check_here(database)
    assert all(view.is_right for view in checked.values()), checked


async def some_runs(log: PostgresEventLog, count: int) -> list[Run]:
    """Ended ones of every kind, written all at once so that their events lie mixed."""
    runs = [Run(log) for _ in range(count)]

    async def one(number: int, run: Run) -> None:
        if number % 3 == 0:
            await run.do(run.request(credits_reserved=7))
            mint, row = run.mint()
            await run.do(builders.provisioned(), mint, builders.start(), mint=row)
            await run.do(builders.tool_step(run.stream.state, 2))
            await run.do(c.RequestCancel(by="client", why="test"))
            await run.do(c.CancelRun(attempt=Attempt(1)))
        elif number % 3 == 1:
            await run.start()
            await run.do(c.FailRun(attempt=Attempt(1), code="internal", sentence="It broke."))
        else:
            await run.finish(f"text {number}")

    await asyncio.gather(*(one(number, run) for number, run in enumerate(runs)))
    return runs


async def projected(database: Database, log: PostgresEventLog) -> None:
    """Wait until the views have the whole log."""
    reader = ReconnectingConnection(Secret(database.url), name="reader")
    async with projecting(all_projections(Secret(database.url), log.data_keys)):
        await until(lambda: are_caught_up(reader))
    await reader.close()


async def portraits(database: Database) -> dict[str, Any]:
    """All that the catalog says of the views, by name; and which tables there are."""
    url = Secret(database.admin_url)
    async with open_session(url, name="test", parameters={}) as session:
        of_views = {view.name: await likeness(session, view.name) for view in all_views()}
        names = await session.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        )
    return of_views | {"relations": [name for (name,) in names]}


def left_behind(database: Database) -> Sequence[str]:
    """What a rebuild has not cleaned up."""
    tables = as_owner(
        database, "SELECT relname FROM pg_class WHERE relname LIKE '%\\_\\_re%' ORDER BY 1"
    )
    books = as_owner(
        database,
        "SELECT view FROM view_rebuilds UNION ALL SELECT first::text FROM view_rebuild_ranges"
        " UNION ALL SELECT run_id::text FROM view_rebuild_runs",
    )
    return [name for (name,) in (*tables, *books)]
