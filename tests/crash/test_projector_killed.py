"""Real projector processes, killed while they work."""

import asyncio
import sys
from pathlib import Path

import pytest

from runs_domain.settings import Secret
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.postgres_log import PostgresEventLog, open_log
from runs_domain.storage.projection import checkpoints
from tests.support.log_streams import SECRETS, Run
from tests.support.operators import environment_of
from tests.support.servers import Database
from tests.support.views import are_caught_up, rows_folded, rows_held
from tests.support.waiting import until

RUNS_A_ROUND = 20
KILLS = 3


async def start_projector(
    database: Database, redis_url: str, place: Path
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from workers.cli import main; main()",
        "projector",
        env=environment_of(database, redis_url, RUNLEDGER_DATA_DIR=str(place)),
    )


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


@pytest.mark.crash
async def test_invariant_8_views_equal_the_fold_after_projectors_were_killed_at_work(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    reader = ReconnectingConnection(Secret(database.url), name="reader")
    runs: list[Run] = []

    async def more(log: PostgresEventLog) -> None:
        fresh = [Run(log) for _ in range(RUNS_A_ROUND)]
        runs.extend(fresh)
        await asyncio.gather(*(run.finish() for run in fresh))

    async def moved(place: int) -> bool:
        return any(one.position > place for one in await checkpoints(reader))

    async with open_log(Secret(database.url), SECRETS, SystemClock()) as log:
        for _ in range(KILLS):
            place = max(one.position for one in await checkpoints(reader))
            two = [await start_projector(database, redis_url, tmp_path) for _ in range(2)]
            writing = asyncio.create_task(more(log))
            try:
                await until(lambda place=place: moved(place), timeout_seconds=30)
            finally:
                await asyncio.gather(*(kill(process) for process in two), writing)

        last = await start_projector(database, redis_url, tmp_path)
        try:
            await until(lambda: are_caught_up(reader), timeout_seconds=30)
        finally:
            await kill(last)
        for run in runs:
            assert await rows_held(reader, log, run.run_id) == await rows_folded(log, run.run_id)
    await reader.close()
