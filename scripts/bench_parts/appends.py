"""Appends a second to the log alone: one process with 1, 8 and 64 callers, then four with 16 each.

An append here is a `requested` with sealed content; every caller waits for its commit.
"""

import asyncio
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from runs_domain.commands import RequestRun
from runs_domain.handle import append_of, empty
from runs_domain.ids import AccountId, Attempt
from runs_domain.keys import ServerSecrets
from runs_domain.ports import Context, EventLog
from runs_domain.run import INITIAL, decide
from runs_domain.settings import Secret
from runs_domain.storage.identity import (
    SystemClock,
    new_account_id,
    new_chat_id,
    new_run_id,
    new_session_id,
)
from runs_domain.storage.migrate import migrate
from runs_domain.storage.postgres_log import open_log
from scripts.bench_parts.lib import emit, quantile_ms
from workers.stack.roles import create_service_login
from workers.stack.servers import Servers

SECONDS = 4.0
WARM_UP_APPENDS = 50
CALLERS = (1, 8, 64)
PROCESSES = 4
CALLERS_A_PROCESS = 16
DATABASE = "postgres"


async def append_one(log: EventLog, account: AccountId) -> None:
    request = RequestRun(
        account_id=account,
        actor="key:bench",
        chat_id=new_chat_id(),
        session_id=new_session_id(),
        model="scripted/echo",
        request_digest="0" * 64,
        title="Scheduled generation",
        messages=({"id": "m", "role": "user", "parts": [{"type": "text", "text": "Hello"}]},),
    )
    context = Context(
        actor="key:bench",
        subject=account,
        correlation="bench",
        causation="bench",
        attempt=Attempt(1),
    )
    await log.append(append_of(empty(new_run_id()), decide(INITIAL, request), context))


async def load(url: str, callers: int) -> dict[str, Any]:
    """What `callers` coroutines get through in SECONDS."""
    secrets = ServerSecrets({1: Secret("a secret of the benchmark alone, long")}, current=1)
    account = new_account_id()
    took: list[float] = []
    async with open_log(Secret(url), secrets, SystemClock()) as log:
        for _ in range(WARM_UP_APPENDS):
            await append_one(log, account)

        async def caller(end: float) -> None:
            while time.perf_counter() < end:
                begin = time.perf_counter()
                await append_one(log, account)
                took.append(time.perf_counter() - begin)

        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller(begin + SECONDS) for _ in range(callers)))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "appends_per_s": round(len(took) / seconds),
        "p50_ms": quantile_ms(took, 0.5),
        "p99_ms": quantile_ms(took, 0.99),
        "client_cpu_us": round(cpu / len(took) * 1e6),
    }


def load_in_process(url: str, callers: int) -> dict[str, Any]:
    return asyncio.run(load(url, callers))


def together(url: str) -> dict[str, Any]:
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(load_in_process, [url] * PROCESSES, [CALLERS_A_PROCESS] * PROCESSES))
    return {
        "appends_per_s": sum(part["appends_per_s"] for part in parts),
        "p50_ms": max(part["p50_ms"] for part in parts),
        "p99_ms": max(part["p99_ms"] for part in parts),
    }


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="rl-bench-") as folder,
        Servers(Path(folder)) as servers,
    ):
        migrate(servers.database_url(DATABASE, admin=True))
        create_service_login(servers)
        url = servers.database_url(DATABASE)
        figures = {f"callers_{count}": asyncio.run(load(url, count)) for count in CALLERS}
        figures[f"processes_{PROCESSES}x{CALLERS_A_PROCESS}"] = together(url)
    emit("appends", figures)


if __name__ == "__main__":
    sys.exit(main())
