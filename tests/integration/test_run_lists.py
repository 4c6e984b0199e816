"""Lists on a real view: every run once whatever is added meanwhile, nothing written, lag told."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs_api.deps import DEPS
from runs_domain.errors import StoreUnavailable
from runs_domain.ids import AccountId
from runs_domain.read_models import summarize
from runs_domain.run_lists_port import ListQuery
from runs_domain.settings import Secret
from runs_domain.storage.identity import new_account_id, uuid7
from runs_domain.storage.postgres_log import PostgresEventLog
from runs_domain.storage.projection import FoldFailed, Projection
from runs_domain.storage.run_lists import PostgresRunLists
from runs_domain.storage.runs_view import RunsView
from runs_domain.storage.view_stats import _BEHIND
from tests.support.api import ME, OTHER, Api
from tests.support.log_streams import Run
from tests.support.servers import Database
from workers.stack.servers import Servers

CHATS = [UUID(int=0xC0 + number) for number in range(3)]
STATUSES = ("queued", "running", "completed")

RUNS = st.lists(
    st.tuples(st.sampled_from([ME, ME, OTHER]), st.sampled_from(STATUSES), st.sampled_from(CHATS)),
    max_size=12,
)
FILTERS = st.fixed_dictionaries(
    {},
    optional={"status": st.sampled_from(STATUSES), "chatId": st.sampled_from(CHATS)},
)
BETWEEN_PAGES = st.lists(st.one_of(RUNS, st.just("rebuild")), max_size=8)

INSERT = """
INSERT INTO runs (run_id, account_id, chat_id, session_id, status, model, created_at, version,
    requested_position)
VALUES (%s, %s, %s, gen_random_uuid(), %s, 'm', now(), 1, %s)
"""
SWAP = """
CREATE TABLE shadow (LIKE runs INCLUDING ALL);
INSERT INTO shadow SELECT * FROM runs ORDER BY requested_position DESC;
GRANT SELECT, INSERT, UPDATE, DELETE ON shadow TO runledger_service;
DROP TABLE runs;
ALTER TABLE shadow RENAME TO runs;
"""


@pytest.fixture
async def lists(database: Database) -> AsyncIterator[PostgresRunLists]:
    opened = PostgresRunLists(Secret(database.url))
    yield opened
    await opened.close()


@dataclass
class Table:
    """The view as a projector would leave it, row by row."""

    connection: psycopg.AsyncConnection[Any]
    position: int = 0

    async def add(self, runs: list[tuple[AccountId, str, UUID]]) -> list[str]:
        """Ids of those that are ME's, the newest last."""
        added = []
        for account, status, chat in runs:
            self.position += 3  # positions have gaps
            run_id = uuid7()
            await self.connection.execute(INSERT, (run_id, account, chat, status, self.position))
            added.append((run_id, account, status, chat))
        return [f"{run}/{status}/{chat}" for run, account, status, chat in added if account == ME]


async def walk(
    api: Api, table: Table, limit: int, filters: dict[str, Any], between: list[Any]
) -> list[str]:
    found, cursor = [], None
    for happens in [*between, *[[]] * 100]:
        asked = {"limit": limit, **filters} | ({} if cursor is None else {"cursor": cursor})
        answer = await api.get(f"/api/chat/runs?{urlencode(asked)}")
        assert answer.status == 200, answer.body
        found += [row["runId"] for row in answer.json["data"]]
        cursor = answer.json.get("nextCursor")
        if cursor is None:
            return found
        if happens == "rebuild":
            await table.connection.execute(SWAP)
        else:
            await table.add(happens)
    raise AssertionError("the pages have no end")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(before=RUNS, filters=FILTERS, limit=st.integers(1, 5), between=BETWEEN_PAGES)
async def test_every_run_is_on_one_page_in_order_while_runs_are_added(
    *,
    database: Database,
    lists: PostgresRunLists,
    before: list[Any],
    filters: dict[str, Any],
    limit: int,
    between: list[Any],
) -> None:
    """Those that were there at the start, and no other; also if the view is made again."""
    api = Api()
    api.app.state[DEPS] = replace(api.app.state[DEPS], run_lists=lists)
    async with await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as owner:
        await owner.execute("TRUNCATE runs")
        table = Table(owner)
        there = [one.split("/") for one in await table.add(before)]
        expected = [
            run
            for run, status, chat in reversed(there)
            if filters.get("status") in (None, status)
            and str(filters.get("chatId")) in ("None", chat)
        ]
        assert await walk(api, table, limit, filters, between) == expected


async def test_a_list_shows_what_the_projector_has_folded(
    database: Database, log: PostgresEventLog, lists: PostgresRunLists
) -> None:
    """Each row is the run's own summary; how late the rest is, is told."""
    run = Run(log)
    await run.finish()
    query = ListQuery(account_id=run.account_id, limit=10)
    waiting = await lists.page(query)
    assert waiting.rows == ()
    assert 0 < waiting.behind_seconds < 60

    view = Projection(Secret(database.url), RunsView(), log.data_keys)
    await view.advance(1)
    begun = await lists.page(query)
    assert begun.rows == (summarize((await log.read(run.run_id))[:1]),)
    assert begun.behind_seconds > waiting.behind_seconds

    while await view.advance(100):
        pass
    await view.close()
    done = await lists.page(query)
    assert done.rows == (summarize(await log.read(run.run_id)),)
    assert done.behind_seconds == 0.0


async def test_a_view_that_stands_still_lists_what_it_has_and_says_how_late_it_is(
    database: Database, log: PostgresEventLog, lists: PostgresRunLists
) -> None:
    """Before an event of a newer release: no error, and no list that looks whole."""
    run = Run(log)
    await run.start()
    with psycopg.connect(database.admin_url) as owner:
        owner.execute(
            "UPDATE stored_events SET topic = 'run.started.v9',"
            " state = convert_to(replace(convert_from(state, 'UTF8'), 'started.v1', 'started.v9'),"
            " 'UTF8') WHERE topic = 'run.started.v1'"
        )
    view = Projection(Secret(database.url), RunsView(), log.data_keys)
    await view.advance(3)
    with pytest.raises(FoldFailed) as caught:
        await view.advance(3)
    await view.stop(caught.value)
    await view.close()

    page = await lists.page(ListQuery(account_id=run.account_id, limit=10))

    assert [(row.run_id, row.version, row.status) for row in page.rows] == [
        (run.run_id, 3, "queued")
    ]
    assert page.behind_seconds > 0


async def test_a_runs_own_key_is_shown_its_row_alone(
    database: Database, log: PostgresEventLog, lists: PostgresRunLists
) -> None:
    """By its id, and only where the filters fit."""
    run, other = Run(log), Run(log)
    await run.start()
    await other.start()
    view = Projection(Secret(database.url), RunsView(), log.data_keys)
    while await view.advance(100):
        pass
    await view.close()
    own = ListQuery(account_id=run.account_id, run_id=run.run_id, limit=10)
    row = summarize(await log.read(run.run_id))
    assert row is not None
    assert (await lists.page(own)).rows == (row,)
    for other_list in (
        ListQuery(account_id=new_account_id(), run_id=run.run_id, limit=10),
        ListQuery(account_id=run.account_id, run_id=other.run_id, limit=10),
        ListQuery(account_id=run.account_id, run_id=run.run_id, limit=10, status="failed"),
        ListQuery(account_id=run.account_id, run_id=run.run_id, limit=10, chat_id=other.chat_id),
        ListQuery(
            account_id=run.account_id, run_id=run.run_id, limit=10, before=row.requested_position
        ),
    ):
        assert (await lists.page(other_list)).rows == ()


async def test_I_47_a_list_cannot_write(lists: PostgresRunLists) -> None:
    """PostgreSQL itself would refuse: every transaction of its connection is read-only."""
    assert (await lists.page(ListQuery(account_id=new_account_id(), limit=10))).rows == ()
    own = lists._connection
    assert await own.fetch("SELECT current_setting('transaction_read_only')") == [("on",)]
    with pytest.raises(StoreUnavailable):
        await own.fetch("INSERT INTO checkpoints (name) VALUES ('x') RETURNING name")
    with pytest.raises(StoreUnavailable):
        await own.fetch("SELECT nextval('stored_events_notification_id_seq')")


async def test_the_oldest_event_that_is_not_shown_is_found_by_the_index(
    database: Database, log: PostgresEventLog
) -> None:
    """However long the log: one entry of the index over positions."""
    await Run(log).start()
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as reader:
        await reader.execute("SET enable_seqscan = off")
        rows = await (await reader.execute(f"EXPLAIN {_BEHIND}", ("runs",))).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "Index Scan using stored_events_notification_id_idx" in plan
    assert "Sort" not in plan


async def test_I_62_a_list_whose_store_is_gone_is_in_doubt(own_servers: Servers) -> None:
    """Never an empty page."""
    lists = PostgresRunLists(Secret(own_servers.database_url("postgres")))
    own_servers.postgres.stop(at_once=True)
    with pytest.raises(StoreUnavailable):
        await lists.page(ListQuery(account_id=new_account_id(), limit=10))
    await lists.close()
