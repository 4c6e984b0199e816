"""A log that is tampered with behind the system's back, as its owner, and put right again."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import psycopg
from psycopg import IsolationLevel

from runs_domain import commands as c
from runs_domain.ids import Attempt, RunId, chain_start
from runs_domain.proof import Fault
from runs_domain.settings import Secret
from runs_domain.storage.history_check import Absent, Part, Progress, check
from runs_domain.storage.history_workers import SETTINGS
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import open_log
from tests.support import builders
from tests.support.log_streams import SECRETS, Run
from tests.support.servers import Database


class Log:
    """Three runs: `done` has completed, `cut` was cancelled over open calls, `live` has started."""

    def __init__(self, database: Database, connections: ExitStack) -> None:
        self.database = database
        self.done, self.cut, self.live = asyncio.run(_filled(database))
        self._owner = connections.enter_context(psycopg.connect(database.admin_url))
        self._owner.autocommit = True
        self._readers = [connections.enter_context(_reader(database.url)) for _ in range(2)]
        self.as_owner("CREATE TABLE kept_stored_events AS TABLE stored_events")
        self.as_owner("CREATE TABLE kept_run_heads AS TABLE run_heads")

    def put_right(self) -> None:
        self.as_owner("DELETE FROM stored_events")
        self.as_owner("INSERT INTO stored_events SELECT * FROM kept_stored_events")
        self.as_owner("DELETE FROM run_heads")
        self.as_owner("INSERT INTO run_heads SELECT * FROM kept_run_heads")

    def as_owner(self, sql: str, *values: Any) -> list[Any]:
        cursor = self._owner.execute(sql.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def states(self, run_id: UUID) -> list[bytes]:
        rows = self.as_owner(
            "SELECT state FROM stored_events WHERE originator_id = %s ORDER BY originator_version",
            run_id,
        )
        return [state for (state,) in rows]

    def edit(self, run_id: UUID, version: int, before: str, after: str) -> None:
        """Of the bytes of one event, which hold `before` once."""
        state = self.states(run_id)[version - 1].decode()
        assert state.count(before) == 1
        self.as_owner(
            "UPDATE stored_events SET state = %s"
            " WHERE originator_id = %s AND originator_version = %s",
            *(state.replace(before, after).encode(), run_id, version),
        )

    def rewrite(self, run_id: UUID, change: Callable[[list[Any]], None]) -> None:
        """The whole stream with new versions and hashes, and its head to match: what somebody can
        do who may write all of it.
        """
        envelopes = [json.loads(state) for state in self.states(run_id)]
        change(envelopes)
        at = self.as_owner(
            "SELECT notification_id FROM stored_events WHERE originator_id = %s ORDER BY 1", run_id
        )
        self.as_owner("DELETE FROM stored_events WHERE originator_id = %s", run_id)
        prev = chain_start(RunId(run_id))
        for version, envelope in enumerate(envelopes, start=1):
            envelope |= {"runId": str(run_id), "version": version, "prev": prev}
            state = json.dumps(envelope, separators=(",", ":"), ensure_ascii=False).encode()
            prev = hashlib.sha256(state).hexdigest()
            place = at[version - 1][0] if version <= len(at) else at[-1][0] + 1_000 + version
            self.as_owner(
                "INSERT INTO stored_events VALUES (%s, %s, %s, %s, %s)",
                *(run_id, version, envelope["type"], state, place),
            )
        self.as_owner(
            "UPDATE run_heads SET version = %s, head_hash = decode(%s, 'hex') WHERE run_id = %s",
            *(len(envelopes), prev, run_id),
        )

    def faults(self, part: Part = Part()) -> list[Fault]:  # noqa: B008 - it cannot be changed
        """What a check finds that reads as the processes' role."""
        log, heads = self._readers
        try:
            notes = list(check(log, heads, part))
        finally:
            log.rollback()
            heads.rollback()
        return [one for one in notes if not isinstance(one, Progress | Absent)]


def _reader(url: str) -> "psycopg.Connection[Any]":
    options = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    connection = psycopg.connect(url, options=options)
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    return connection


async def _filled(database: Database) -> Sequence[RunId]:
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        done, cut, live = (Run(log) for _ in range(3))
        await done.finish("some words")
        await cut.start()
        await cut.do(builders.tool_step(cut.stream.state, 2))
        await cut.do(c.StartTools(attempt=Attempt(1), call_ids=cut.stream.state.open_calls[:1]))
        await cut.do(c.RequestCancel(by="client", why="test"))
        await cut.do(c.CancelRun(attempt=Attempt(1)))
        await cut.do(c.RecordSandboxReleased(found=True))
        await live.start()
        return [run.run_id for run in (done, cut, live)]
