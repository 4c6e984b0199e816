"""Processes that make batches and copy them in, each batch one transaction, committed in order."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import Any, Final, NamedTuple

import psycopg
from seeding.batches import BatchMaker, Rows
from seeding.plan import Plan
from seeding.rows import COPY_BEGIN, COPY_END, EVENT_COLUMNS, HEAD_COLUMNS, KEY_COLUMNS

from runs_domain.errors import RunledgerError
from runs_domain.faults import brief
from runs_domain.ids import AccountId
from runs_domain.keys import DerivedKeyIssuer, secrets_of
from runs_domain.settings import Secret, Settings, load
from runs_domain.storage.batch_call import APPEND_LOCK
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.data_key_rows import PostgresDataKeys
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.sealing import DataKey, DataKeys
from runs_domain.storage.why_away import why_away

NAME: Final = "runledger seed"
CONNECT_SECONDS: Final = 10
STATEMENT_SECONDS_MAX: Final = 300
"""For the COPY of one batch: a disk that has gone must not hang a seed for ever."""
TURN_SECONDS_MAX: Final = 600.0
"""What a batch waits for those before it."""
PR_SET_PDEATHSIG: Final = 1
COPIES: Final = tuple(
    f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)"
    for table, columns in (
        ("stored_events", EVENT_COLUMNS),
        ("run_heads", HEAD_COLUMNS),
        ("api_keys", KEY_COLUMNS),
    )
)


class SeedFailed(RunledgerError):
    """A batch could not be made or copied; those before it stay."""


class Share(NamedTuple):
    """What one process makes: every `of`th batch from `number` on, when it is their turn."""

    plan: Plan
    number: int
    of: int
    turn: Any
    """The batch that may be committed now, in memory that the processes share."""
    came: Any
    """Told when the turn goes on."""
    parent: int


class Done(NamedTuple):
    """One batch that is committed."""

    runs: int
    events: int


def connect(url: Secret) -> "psycopg.Connection[Any]":
    """In autocommit. Raises psycopg.Error."""
    return psycopg.connect(
        url.reveal(),
        autocommit=True,
        connect_timeout=CONNECT_SECONDS,
        application_name=NAME,
        options=f"-c timezone=UTC -c statement_timeout={STATEMENT_SECONDS_MAX}s",
    )


async def data_keys_of(settings: Settings, plan: Plan) -> dict[AccountId, DataKey]:
    """Of all accounts of the plan; makes those that are missing. Raises StoreUnavailable."""
    owner = ReconnectingConnection(
        settings.admin_database_url, name=NAME, seconds_max=CONNECT_SECONDS
    )
    keys = DataKeys(PostgresDataKeys(owner), secrets_of(settings), SystemClock())
    accounts = [plan.account(number) for number in range(plan.accounts)]
    try:
        found = await asyncio.gather(*map(keys.for_sealing, accounts))
    finally:
        await owner.close()
    return {account: key for account, key in zip(accounts, found, strict=True) if key is not None}


def copy_all(plan: Plan, workers: int) -> Iterator[Done]:
    """Each batch once it is committed. Raises SeedFailed; then no process is left."""
    context = get_context("spawn")
    turn = context.Value("q", 0)
    came = context.Condition(turn.get_lock())
    with ExitStack() as undo:
        pipes: list[Pipe[Any, Any]] = []
        processes = []
        for number in range(min(workers, plan.batches)):
            ours, theirs = context.Pipe(duplex=False)
            share = Share(plan, number, workers, turn, came, os.getpid())
            process = context.Process(target=_work, args=(share, theirs), daemon=True)
            process.start()
            theirs.close()
            undo.callback(process.join)
            undo.callback(process.terminate)
            pipes.append(ours)
            processes.append(process)
        while pipes:
            ready = wait(pipes)
            for pipe in [one for one in pipes if one in ready]:
                try:
                    said = pipe.recv()
                except EOFError:
                    raise SeedFailed("a process that copies was killed") from None
                if said is None:
                    pipes.remove(pipe)
                elif isinstance(said, Done):
                    yield said
                else:
                    raise SeedFailed(str(said))
        for process in processes:
            process.join()


def _work(share: Share, pipe: "Pipe[Any, Any]") -> None:
    """Says each Done, then None; or a sentence, if it has to give up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != share.parent:
        sys.exit(1)
    try:
        for done in _copied(share):
            pipe.send(done)
        pipe.send(None)
    except psycopg.Error as error:
        pipe.send(f"PostgreSQL does not take a batch: {why_away(error)}")
    except RunledgerError as error:
        pipe.send(str(error))
    except Exception as error:  # noqa: BLE001 - told by the parent, without what it quotes
        pipe.send(f"a batch could not be made: {brief(error)}")


def _copied(share: Share) -> Iterator[Done]:
    plan = share.plan
    settings = load(os.environ)
    issuer = DerivedKeyIssuer(secrets_of(settings), settings.key_prefix)
    data_keys: Mapping[AccountId, DataKey] = asyncio.run(data_keys_of(settings, plan))
    maker = BatchMaker(plan, issuer, data_keys)
    with connect(settings.admin_database_url) as connection:
        # Shared among those who copy, and in the way of everybody else who appends.
        connection.execute("SELECT pg_advisory_lock_shared(%s)", (APPEND_LOCK,))
        for batch in range(share.number, plan.batches, share.of):
            rows = maker.make(batch)
            with connection.transaction():
                _copy(connection, rows)
                _await_turn(share, batch)
            with share.came:
                share.turn.value = batch + 1
                share.came.notify_all()
            yield Done(rows.runs, rows.events)


def _await_turn(share: Share, batch: int) -> None:
    with share.came:
        if not share.came.wait_for(lambda: share.turn.value == batch, TURN_SECONDS_MAX):
            raise SeedFailed("the batch before did not come to its end")


def _copy(connection: "psycopg.Connection[Any]", rows: Rows) -> None:
    tables = (rows.stored_events, rows.run_heads, rows.api_keys)
    for statement, table in zip(COPIES, tables, strict=True):
        with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            copy.write(COPY_BEGIN)
            copy.write(table)
            copy.write(COPY_END)
