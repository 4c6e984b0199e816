"""Checks histories in several processes, all of which see one moment of the log.

The parent holds that moment (`history_parts`) and gives each process a part of the runs at a time;
what it finds comes back as notes. A process that is done early takes more of the parts.
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import IsolationLevel, sql

from runs_domain.errors import RunledgerError, StoreUnavailable
from runs_domain.settings import Secret
from runs_domain.storage.connection import options_of, unavailable
from runs_domain.storage.history_check import Link, Note, Places, check, misplaced
from runs_domain.storage.history_parts import Plan
from runs_domain.storage.postgres_log import LOOK_UP_SETTINGS

CONNECT_SECONDS_MAX: Final = 5
WORKERS_MAX: Final = 32
SETTINGS: Final = LOOK_UP_SETTINGS | {
    "enable_sort": "off",  # the primary keys have the order that is wanted
    "row_security": "off",  # rows that a policy hides are an error, not an absence
    "timezone": "UTC",
}

_Ends: TypeAlias = "Pipe[Any, Any]"


class WorkerLost(RunledgerError):
    """A process of the check was killed; what it had in hand is not checked."""


def notes(url: Secret, name: str, plan: Plan, workers: int) -> Iterator[Note]:
    """In no order. Raises StoreUnavailable and WorkerLost; then no process is left."""
    context = multiprocessing.get_context("spawn")
    left = iter(plan.parts)
    heard: dict[_Ends, float] = {}
    with ExitStack() as undo:
        for _ in range(min(workers, len(plan.parts))):
            ours, theirs = context.Pipe()
            arguments = (url.reveal(), name, plan.moment, theirs)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            undo.callback(process.join)
            undo.callback(process.terminate)
            ours.send(next(left))
            heard[ours] = time.monotonic()
        while heard:
            for pipe in _ready(heard, name, plan.quiet_seconds_max):
                heard[pipe] = time.monotonic()
                note = _said(pipe)
                if note is not None:
                    yield note
                    continue
                part = next(left, None)
                pipe.send(part)
                if part is None:
                    del heard[pipe]


def _ready(heard: dict[_Ends, float], name: str, seconds_max: float) -> list[Any]:
    ready = wait(list(heard), timeout=1.0)
    now = time.monotonic()
    if any(now - since > seconds_max for pipe, since in heard.items() if pipe not in ready):
        raise StoreUnavailable(f"{name}: no answer within {seconds_max:g} s")
    return ready


def _said(pipe: _Ends) -> Note | None:
    """None: its part is done."""
    try:
        said = pipe.recv()
    except (EOFError, ConnectionError):
        raise WorkerLost("a process of the check was killed") from None
    if isinstance(said, StoreUnavailable):
        raise said
    return said  # type: ignore[no-any-return]  # a process of our own


# ------------------------------------------------------------------------------ a process


def _work(url: str, name: str, moment: str, pipe: _Ends) -> None:
    """Says the notes of each part, then None; or StoreUnavailable, and that is the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    # A session that is lost is told once, by the parent: psycopg would warn of its rollback too.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    try:
        with _connect(url, name, moment) as log, _connect(url, name, moment) as heads:
            for part in iter(pipe.recv, None):
                found = (
                    misplaced(log, part) if isinstance(part, Places) else check(log, heads, part)
                )
                for note in found:
                    pipe.send(note)
                pipe.send(None)
    except (EOFError, ConnectionError):
        return  # the parent is gone
    except psycopg.Error as error:
        pipe.send(unavailable(name, error))


def _connect(url: str, name: str, moment: str) -> Link:
    connection = psycopg.connect(
        url,
        connect_timeout=CONNECT_SECONDS_MAX,
        application_name=name,
        options=options_of(SETTINGS),
    )
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(moment)))
    return connection
