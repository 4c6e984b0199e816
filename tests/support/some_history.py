"""A small history of two accounts, for whoever reads logs without changing them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from runs_domain import commands as c
from runs_domain.ids import AccountId, Attempt, RunId
from runs_domain.settings import Secret
from runs_domain.storage.identity import SystemClock, new_account_id
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from tests.support import builders
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database, as_owner, create_database, drop_database
from workers.stack.servers import Servers

FIRST = Attempt(1)


@dataclass(frozen=True)
class SomeHistory:
    database: Database
    account: AccountId
    """Of `runs`: completed, cancelled with tool calls, completed, under way; they overlap."""
    runs: tuple[RunId, ...]
    other_account: AccountId
    """Has a run of its own among them."""

    def states(self) -> dict[str, bytes]:
        """Stored bytes of the account's events by `<run>/<version>`."""
        return {f"{run}/{version}": state for run, version, _, state in self.rows()}

    def rows(self) -> list[tuple[RunId, int, int, bytes]]:
        """Run, version, position, stored bytes; in the log's order."""
        return as_owner(
            self.database,
            "SELECT originator_id, originator_version, notification_id, state"
            " FROM stored_events JOIN run_heads ON run_id = originator_id"
            " WHERE account_id = %s ORDER BY notification_id",
            self.account,
        )

    def times(self) -> list[datetime]:
        """When events were committed, each time once, rising."""
        found = as_owner(
            self.database,
            "SELECT DISTINCT (convert_from(state, 'UTF8')::jsonb ->> 'at')::timestamptz"
            " FROM stored_events ORDER BY 1",
        )
        return [at for (at,) in found]


@contextmanager
def some_history(servers: Servers) -> Iterator[SomeHistory]:
    database = create_database(servers)
    try:
        yield asyncio.run(_made(database))
    finally:
        drop_database(servers, database)


async def _made(database: Database) -> SomeHistory:
    account, other = new_account_id(), new_account_id()
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        runs = [Run(log, account_id=account) for _ in range(4)]
        for run in runs[:3]:
            await run.start()
        await runs[1].do(builders.tool_step(runs[1].stream.state, 2))
        await _finish(runs[0], "first")
        await Run(log, account_id=other).finish("of somebody else")
        await runs[1].do(c.RequestCancel(by="client", why="test"))
        await runs[3].start()
        await runs[1].do(c.CancelRun(attempt=FIRST), c.RecordSandboxReleased(found=False))
        await _finish(runs[2], "ünïcode \u2028 and more")
    return SomeHistory(database, account, tuple(run.run_id for run in runs), other)


async def _finish(run: Run, text: str) -> None:
    await run.do(builders.text_step(run.stream.state, text))
    await run.do(c.CompleteRun(attempt=FIRST))
    await run.do(c.RecordSandboxReleased(found=False))


async def append_some(log: PostgresEventLog, account: AccountId) -> Run:
    """One more run of the account, to its end."""
    run = Run(log, account_id=account)
    await run.finish("later")
    return run
