"""Views on a seeded log: rebuild, catch-up, how soon a commit is seen, the swap, verification, and
the eventsourcing library's own ProjectionRunner beside ours.

One JSON line a part, with its targets and whether they are met. `--runs 1000000` is the size that
the targets are about; it needs about 30 GB in TMPDIR and half an hour.
"""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.bench_parts._seeded import (
    VIEWS,
    Place,
    bare_servers,
    data_directory,
    empty_views,
    key_of,
    largest_account,
    run_module,
    run_script,
    say,
    seed,
    stack_on,
    vacuum,
)
from scripts.bench_parts._visible import posts, readers, visible
from scripts.bench_parts.lib import emit, quantile_ms

RUNS = 100_000
WORKERS = "2"
LIBRARY_SECONDS = 20.0
VISIBLE_RATES = ((5.0, 50), (20.0, 200), (50.0, 500))
"""POSTs a second, and how many: the first is an idle stack."""
SWAP_POSTS_PER_SECOND = 20.0
LIVE_SECONDS_BEFORE = 1.0
CATCH_UP = {"events_per_s": 60_000}
MEMORY = {"memory_mib_max": 300}
SWAP = {"swap_ms": 200}
CHEAP_VIEWS = ("runs", "credits", "sandboxes")
PARTS = ("seed", "catch_up", "library", "verify", "rebuild", "visible", "swap")


def main() -> None:
    options = _options()
    with data_directory() as folder:
        with bare_servers(folder) as place:
            figures = seed(place, options.runs)
            _emit("seed", figures, least={"eventsPerSecond": 37_500}, most=MEMORY)
            _without_api(place, options.parts)
        if {"visible", "swap"} & set(options.parts):
            say("starts a stack on it")
            with stack_on(folder) as (place, details):
                if "visible" in options.parts:
                    asyncio.run(_visible(details))
                if "swap" in options.parts:
                    asyncio.run(_swap(place, details))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench projections", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="(default: %(default)s)")
    parser.add_argument(
        "--parts",
        type=lambda given: given.split(","),
        default=list(PARTS),
        help=f"some of {','.join(PARTS)}",
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}")
    return options


def _emit(
    part: str,
    figures: dict[str, Any],
    *,
    least: Mapping[str, float] | None = None,
    most: Mapping[str, float] | None = None,
) -> None:
    """`least` and `most`: what figures of these names should be."""
    least, most = least or {}, most or {}
    met = {name: figures[name] >= value for name, value in least.items()}
    met |= {name: figures[name] <= value for name, value in most.items()}
    targets = {name: f">= {value:g}" for name, value in least.items()}
    targets |= {name: f"<= {value:g}" for name, value in most.items()}
    emit("projections", {"part": part, **figures, "targets": targets, "met": met})


def _without_api(place: Place, parts: Sequence[str]) -> None:
    library = _library(place) if "library" in parts else None
    if "catch_up" in parts or library is not None:
        alone = {view: _catch_up(place, view) for view in VIEWS}
        alone["all four in one process"] = _catch_up(place, *VIEWS)
        for view, figures in alone.items():
            _emit("catch_up", {"view": view, **figures}, least=CATCH_UP, most=MEMORY)
        if library is not None:
            ours = alone["runs"]["events_per_s"]
            theirs = library["events_per_s"]
            _emit(
                "library", {**library, "ours_events_per_s": ours, "ratio": round(ours / theirs, 1)}
            )
    if "verify" in parts:
        _verify(place)
    if "rebuild" in parts:
        _rebuild(place, CHEAP_VIEWS, 150_000.0)
        _rebuild(place, ("messages",), 40_000.0)
    elif "catch_up" not in parts:
        _catch_up(place, *VIEWS)  # the parts with an API read full views


def _catch_up(place: Place, *views: str) -> dict[str, Any]:
    say(f"catches up with {', '.join(views)} from 0")
    empty_views(place, *views)
    ran = run_module(place, "_catch_up", *views)
    seconds = ran.said["seconds"]
    return {
        "events": ran.said["events"],
        "seconds": round(seconds, 2),
        "events_per_s": round(ran.said["events"] / seconds),
        "cpu_us_per_event": ran.cpu_us_per(ran.said["events"]),
        "memory_mib_max": ran.memory.mib_max,
    }


def _library(place: Place) -> dict[str, Any]:
    say(f"lets the library's ProjectionRunner run for {LIBRARY_SECONDS:g} s")
    place.rows("CREATE TABLE library_runs (LIKE runs INCLUDING ALL)")
    place.rows(
        "CREATE TABLE library_tracking (application_name text, notification_id bigint,"
        " PRIMARY KEY (application_name))"
    )
    place.rows("GRANT ALL ON library_runs, library_tracking TO runledger_service")
    try:
        ran = run_module(place, "_library_runner", str(LIBRARY_SECONDS))
    finally:
        place.rows("DROP TABLE library_runs, library_tracking")
    return {
        "events": ran.said["events"],
        "seconds": round(ran.said["seconds"], 2),
        "events_per_s": round(ran.said["events"] / ran.said["seconds"]),
        "cpu_us_per_event": ran.cpu_us_per(ran.said["events"]),
        "memory_mib_max": ran.memory.mib_max,
    }


def _verify(place: Place) -> None:
    say("verifies every history")
    ran = run_script(place, "verify_history.py", "--all", "--workers", WORKERS, "--json")
    figures = {
        "events": ran.said["events"],
        "seconds": ran.said["seconds"],
        "events_per_s": ran.said["eventsPerSecond"],
        "cpu_us_per_event": ran.cpu_us_per(ran.said["events"]),
        "memory_mib_max": ran.memory.mib_max,
    }
    _emit("verify", figures, least={"events_per_s": 100_000}, most=MEMORY)


def _rebuild(place: Place, views: Sequence[str], target: float) -> None:
    say(f"rebuilds {', '.join(views)}")
    ran = run_script(place, "rebuild_projections.py", *views, "--workers", WORKERS, "--json")
    figures = {
        "views": list(views),
        "workers": int(WORKERS),
        "events": ran.said["events"],
        "seconds": ran.said["seconds"],
        "events_per_s": ran.said["eventsPerSecond"],
        "cpu_us_per_event": ran.cpu_us_per(ran.said["events"]),
        "swap_ms": max(ran.said["swapMs"].values()),
        "memory_mib_max": ran.memory.mib_max,
    }
    _emit("rebuild", figures, least={"events_per_s": target}, most=MEMORY | SWAP)
    vacuum(place, *views)


async def _visible(details: dict[str, Any]) -> None:
    for runs_per_second, runs in VISIBLE_RATES:
        say(f"looks for {runs} runs in the list, {runs_per_second:g} a second")
        found = await visible(details, runs=runs, runs_per_second=runs_per_second)
        figures = {"asked_posts_per_s": runs_per_second, **found.figures()}
        _emit("visible", figures, most={"sent_to_visible_p50_ms": 15})


async def _swap(place: Place, details: dict[str, Any]) -> None:
    """A rebuild under live POSTs while others read."""
    say("rebuilds runs, credits and sandboxes under live traffic")
    account = largest_account(place)
    key = await key_of(place, account)
    [(run_id,)] = place.rows("SELECT run_id FROM runs WHERE account_id = %s LIMIT 1", account)
    paths = ["/api/chat/runs?limit=50"] * 2 + [f"/api/chat/runs/{run_id}"] * 2
    async with (
        readers(details, key, paths) as reads,
        posts(details, runs_per_second=SWAP_POSTS_PER_SECOND) as took,
    ):
        await asyncio.sleep(LIVE_SECONDS_BEFORE)
        ran = await asyncio.to_thread(
            run_script,
            place,
            "rebuild_projections.py",
            *CHEAP_VIEWS,
            "--workers",
            WORKERS,
            "--json",
        )
        await asyncio.sleep(LIVE_SECONDS_BEFORE)
    figures = {
        "views": list(CHEAP_VIEWS),
        "rebuild_seconds": ran.said["seconds"],
        "swaps_ms": ran.said["swapMs"],
        "swap_ms": max(ran.said["swapMs"].values()),
        "posts": len(took),
        "post_p50_ms": quantile_ms(took, 0.5),
        "post_p99_ms": quantile_ms(took, 0.99),
        **reads.figures(),
    }
    _emit("swap", figures, most={"failed_reads": 0} | SWAP)


if __name__ == "__main__":
    main()
