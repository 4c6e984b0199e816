"""The log as one table and in 16 hash partitions by stream: appends, one stream, the tail.

What partitions cost while the log is small enough to do without; one JSON line a layout.
"""

import argparse
import asyncio
import random
import time
from typing import Any
from uuid import UUID

import psycopg

from runs_domain.settings import Secret
from runs_domain.storage.connection import options_of
from runs_domain.storage.postgres_log import LOOK_UP_SETTINGS
from runs_domain.storage.recorder import stock_recorder
from scripts.bench_parts._seeded import Place, bare_servers, data_directory, run_script, seed
from scripts.bench_parts.appends import load
from scripts.bench_parts.lib import emit, quantile_ms

RUNS = 20_000
PARTITIONS = 16
CALLERS = 16
STREAMS = 2_000
BATCH_EVENTS = 2_000
BATCHES_MAX = 50
STREAM = """
SELECT originator_version, topic, state, notification_id FROM stored_events
WHERE originator_id = %s AND originator_version > 0 ORDER BY originator_version
"""
TAIL = """
SELECT originator_id, originator_version, topic, state, notification_id FROM stored_events
WHERE notification_id > %s ORDER BY notification_id LIMIT %s
"""
PARTITION = (
    "ALTER SEQUENCE stored_events_notification_id_seq OWNED BY NONE",
    "CREATE TABLE parted (LIKE stored_events INCLUDING DEFAULTS) PARTITION BY HASH (originator_id)",
    "DROP TABLE stored_events",
    "ALTER TABLE parted RENAME TO stored_events",
    *(
        f"CREATE TABLE stored_events_{number} PARTITION OF stored_events"
        f" FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        for number in range(PARTITIONS)
    ),
    "ALTER TABLE stored_events ADD PRIMARY KEY (originator_id, originator_version)",
    # Not unique: an index of a partitioned table can only be so together with its key.
    "CREATE INDEX ON stored_events (notification_id)",
    "ALTER SEQUENCE stored_events_notification_id_seq OWNED BY stored_events.notification_id",
    "GRANT SELECT, INSERT ON stored_events TO runledger_service",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench partitions", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="(default: %(default)s)")
    options = parser.parse_args()
    for layout, change in (("one table", ()), (f"{PARTITIONS} hash partitions", PARTITION)):
        with data_directory() as folder, bare_servers(folder) as place:
            for statement in change:
                place.rows(statement)
            figures = {"layout": layout, **_measure(place, options.runs)}
            emit("partitions", figures)


def _measure(place: Place, runs: int) -> dict[str, Any]:
    seeded = seed(place, runs)
    url = place.env["RUNLEDGER_DATABASE_URL"]
    verified = run_script(place, "verify_history.py", "--all", "--json")
    settings = options_of(LOOK_UP_SETTINGS)
    with psycopg.connect(url, autocommit=True, options=settings) as connection:
        chance = random.Random(1)  # noqa: S311 - no secret
        ids = [row[0] for row in connection.execute("SELECT run_id FROM run_heads").fetchall()]
        streams = [_stream(connection, chance.choice(ids)) for _ in range(STREAMS)]
        tail = _tail(connection)
    return {
        "runs": runs,
        "seed_events_per_s": seeded["eventsPerSecond"],
        "verify_events_per_s": verified.said["eventsPerSecond"],
        "keeps_places_apart": verified.said["keepsPlacesApart"],
        "stream_p50_ms": quantile_ms(streams, 0.5),
        "stream_p99_ms": quantile_ms(streams, 0.99),
        "tail_batch_events": BATCH_EVENTS,
        "tail_batch_p50_ms": quantile_ms(tail, 0.5),
        "library_reads_it": _library_reads(url, ids[0]),
        "appends": asyncio.run(load(url, CALLERS)),
    }


def _stream(connection: "psycopg.Connection[Any]", run_id: UUID) -> float:
    begin = time.perf_counter()
    assert connection.execute(STREAM, (run_id,), prepare=True, binary=True).fetchall()
    return time.perf_counter() - begin


def _tail(connection: "psycopg.Connection[Any]") -> list[float]:
    """Batches one after another from the log's beginning."""
    after, took = 0, []
    for _ in range(BATCHES_MAX):
        begin = time.perf_counter()
        cursor = connection.execute(TAIL, (after, BATCH_EVENTS), prepare=True, binary=True)
        batch = cursor.fetchall()
        took.append(time.perf_counter() - begin)
        if len(batch) < BATCH_EVENTS:
            break
        after = batch[-1][4]
    return took


def _library_reads(url: str, run_id: UUID) -> bool:
    """Whether the stock recorder gives the stream whole, and the log in order."""
    with stock_recorder(Secret(url)) as recorder:
        stream = recorder.select_events(run_id)
        told = recorder.select_notifications(start=1, limit=BATCH_EVENTS)
    versions = [one.originator_version for one in stream]
    positions = [one.id for one in told]
    return versions == list(range(1, len(versions) + 1)) and positions == sorted(positions)


if __name__ == "__main__":
    main()
