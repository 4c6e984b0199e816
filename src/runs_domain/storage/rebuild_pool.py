"""Work in several processes, which end with the one that started them, whatever ends that.

What they do is theirs: they report numbers and findings, and the first that fails ends the others.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final, TypeAlias, TypeVar, cast

import msgspec
import psycopg

from runs_domain.errors import RunledgerError
from runs_domain.faults import places
from runs_domain.storage.long_work import told

LOOK_SECONDS: Final = 0.2
SILENT_SECONDS_MAX: Final = 300.0
"""Without a report: a server that hangs, or a statement that waits for somebody who never ends."""
END_SECONDS_MAX: Final = 5.0

J = TypeVar("J")
Report: TypeAlias = Callable[[Any], None]
Work: TypeAlias = Callable[[J, int, Report], None]
"""Gets the job, which process it is (from 0), and where its reports go. Both must be picklable."""


class WorkerFailed(RunledgerError):
    """The message is for operators."""


class _Failed(msgspec.Struct, frozen=True):
    sentence: str
    kind: type[RunledgerError]
    trace: tuple[str, ...] = ()


async def in_processes(work: Work[J], job: J, count: int, took: Report) -> None:
    """Run `work` in `count` processes at once until all have ended; `took` gets each report.

    Raises what a process failed with, as far as its class takes one sentence, else WorkerFailed.
    """
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for number in range(count):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_main, args=(work, job, number, theirs), daemon=True, name=f"part {number}"
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        await _follow(pipes, processes, took)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            await asyncio.to_thread(process.join, END_SECONDS_MAX)
        for pipe in pipes:
            pipe.close()


async def _follow(
    pipes: Sequence[Connection], processes: Sequence[SpawnProcess], took: Report
) -> None:
    open_pipes = list(pipes)
    heard_at = time.monotonic()
    while open_pipes:
        ready = await asyncio.to_thread(wait, open_pipes, LOOK_SECONDS)
        if ready:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > SILENT_SECONDS_MAX:
            raise WorkerFailed(f"nothing went on for {SILENT_SECONDS_MAX:g} s")
        for pipe in ready:
            try:
                report = cast(Connection, pipe).recv()
            except EOFError:
                open_pipes.remove(cast(Connection, pipe))
                continue
            if isinstance(report, _Failed):
                raise _error_of(report)
            took(report)
    for process in processes:
        await asyncio.to_thread(process.join, END_SECONDS_MAX)
        if process.exitcode != 0:
            raise WorkerFailed(f"a worker process was ended from outside ({process.exitcode})")


def _error_of(failed: _Failed) -> RunledgerError:
    if failed.trace:
        return WorkerFailed("\n".join((failed.sentence, *failed.trace)))
    return failed.kind(failed.sentence)  # every error of ours that comes this way takes that


def _main(work: Work[Any], job: Any, number: int, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.disable()  # what we do makes no cycles, and a collection looks at every event in memory
    gc.freeze()  # and if one is asked for, it need not look at what was imported
    try:
        work(job, number, pipe.send)
    except RunledgerError as error:
        pipe.send(_Failed(str(error), type(error)))
    except psycopg.Error as error:
        failure = told(error, "reading or writing", "runledger rebuild")
        pipe.send(_Failed(str(failure), type(failure)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells of it
        pipe.send(_Failed("a worker process failed", WorkerFailed, tuple(places(error))))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
