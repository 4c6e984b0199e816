"""An account with something of each kind that an erasure clears, and the script that does it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from runs_domain.ids import AccountId, RunId, sandbox_name
from runs_domain.settings import Secret
from runs_domain.storage import redis_names as names
from runs_domain.storage.accounts import Accounts
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.messages_view import MessagesView
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from runs_domain.storage.projection import Projection
from tests.support.builders import user_message
from tests.support.eraser import NEVER, erase
from tests.support.log_streams import SECRETS, Run
from tests.support.operators import environment_of
from tests.support.servers import Database, as_owner

CANARY = "canary-3f1d9c among the words"
NAME = "canary-3f1d9c of a person"
DESTROYED = 4
"""The step of an erasure that destroys the key."""


class Place:
    """`account` is Ada's: two runs that ended, a key, a membership of `org`."""

    def __init__(self, database: Database, redis_url: str, data_dir: Path) -> None:
        self.database = database
        self.redis_url = redis_url
        self.data_dir = data_dir
        self.account: AccountId
        self.org: AccountId
        self.runs: list[Run] = []

    @property
    def env(self) -> dict[str, str]:
        place = str(self.data_dir)
        return environment_of(self.database, self.redis_url, owner=True, RUNLEDGER_DATA_DIR=place)

    def erase(
        self, *arguments: object, code: int = 0, killed_after: int = NEVER, **changes: str
    ) -> dict[str, Any]:
        """The receipt; {} if there is none. What was said on stderr is under `said`."""
        given = ("--yes", "--json", *arguments)
        done = erase(self.account, *given, env=self.env | changes, killed_after=killed_after)
        assert done.returncode == code, done.stderr + done.stdout
        receipt = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        return {**receipt, "said": done.stderr}

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return as_owner(self.database, sql, *values)

    def has_key(self) -> bool:
        """Whether the account's content can be read."""
        sql = "SELECT 1 FROM account_data_keys WHERE account_id = %s AND wrapped IS NOT NULL"
        return bool(self.query(sql, self.account))

    def aged(self) -> "Place":
        """The key was destroyed long ago: nobody has it in a cache, so nobody is waited for."""
        sql = "UPDATE account_data_keys SET destroyed_at = now() - interval '1 hour'"
        self.query(sql + " WHERE account_id = %s", self.account)
        return self

    def chunk_keys(self) -> set[str]:
        with Redis.from_url(self.redis_url, socket_timeout=5.0) as client:
            return {key.decode() for key in client.keys("rl:{*}:frames")}

    def stream(self, run_id: RunId) -> None:
        """What a worker leaves in Redis of a run."""
        with Redis.from_url(self.redis_url, socket_timeout=5.0) as client:
            client.hset(names.chunk_state(run_id), mapping={"fence": 1, "attempt": 1, "base": 0})
            client.rpush(names.chunk_frames(run_id), CANARY)

    def sandbox(self, run: Run, *, account: AccountId | None = None) -> Path:
        """Left behind by a worker; `account` is whose it says it is, by default the run's."""
        folder = self.data_dir / "sandboxes" / sandbox_name(run.stream.state.requested.session_id)  # type: ignore[union-attr]
        (folder / "workspace").mkdir(parents=True)
        (folder / "workspace" / "notes").write_text(CANARY)
        whose = account or run.account_id
        marker = {"sessionId": str(run.run_id), "accountId": str(whose)}
        (folder / "made.json").write_text(json.dumps(marker))
        return folder

    def export(self, name: str, account: AccountId | None, manifest: str = "manifest.json") -> Path:
        folder = self.data_dir / "exports" / name
        folder.mkdir(parents=True)
        (folder / "content-00001.ndjson").write_text(CANARY)
        if account is not None:
            (folder / manifest).write_text(json.dumps({"account": str(account)}))
        return folder


@asynccontextmanager
async def furnished(database: Database, redis_url: str, data_dir: Path) -> AsyncIterator[Place]:
    place = Place(database, redis_url, data_dir)
    owner = ReconnectingConnection(Secret(database.admin_url), name="test", seconds_max=10.0)
    try:
        accounts = Accounts(owner, SECRETS, "recoup_sk_")
        place.account = await accounts.create("person", NAME)
        place.org = await accounts.create("org", "Label")
        await accounts.add_member(place.org, place.account)
        await accounts.mint_key(place.account)
        async with opened_log(database) as log:
            place.runs = [Run(log, account_id=place.account) for _ in range(2)]
            for run in place.runs:
                await run.finish(CANARY)
            await project(database, log)
        for run in place.runs:
            place.stream(run.run_id)
        yield place
    finally:
        await owner.close()


@asynccontextmanager
async def opened_log(database: Database) -> AsyncIterator[PostgresEventLog]:
    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        yield log


async def project(database: Database, log: PostgresEventLog) -> None:
    """Bring the `messages` view up to date."""
    view = Projection(Secret(database.url), MessagesView(), log.data_keys)
    while await view.advance(1000):
        pass
    await view.close()


async def request(log: PostgresEventLog, account: AccountId) -> Run:
    """A run that nobody has taken."""
    run = Run(log, account_id=account)
    await run.do(run.request(messages=(user_message(CANARY),)))
    return run
