"""Projectors of the views named, from where they are to the end of the log as it is now.

`python -m scripts.bench_parts._catch_up VIEW…`: prints one JSON object and ends.
"""

import asyncio
import json
import os
import sys
import time

from runs_domain.keys import secrets_of
from runs_domain.settings import load
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.data_key_rows import PostgresDataKeys
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.projection import checkpoints
from runs_domain.storage.sealing import DataKeys
from workers.projector import all_projections, project

LOOK_SECONDS = 0.02
CATCH_UP_SECONDS_MAX = 3600.0


async def catch_up(views: list[str]) -> dict[str, float]:
    settings = load(os.environ)
    clock = SystemClock()
    reader = ReconnectingConnection(settings.database_url, name="bench")
    data_keys = DataKeys(PostgresDataKeys(reader), secrets_of(settings), clock)
    [(last, events)] = await reader.fetch(
        "SELECT max(notification_id), count(*) FROM stored_events"
    )
    chosen = [one for one in all_projections(settings.database_url, data_keys) if one.name in views]
    assert len(chosen) == len(views)
    begin = time.perf_counter()
    working = asyncio.create_task(project(chosen, clock, clock.sleep))
    async with asyncio.timeout(CATCH_UP_SECONDS_MAX):
        while not working.done():
            places = {one.name: one for one in await checkpoints(reader)}
            if all(places[name].position >= last for name in views):
                break
            stopped = [places[name].stopped_error for name in views]
            if any(stopped):
                raise SystemExit(f"a view stands still: {stopped}")
            await asyncio.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - begin
    working.cancel()
    await asyncio.wait({working})
    await reader.close()
    return {"events": events, "seconds": seconds}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(catch_up(sys.argv[1:]))) + "\n")
