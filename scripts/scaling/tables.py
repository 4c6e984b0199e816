"""The tables of docs/scaling.md, of what `scripts/bench scale --write` measured."""

from collections.abc import Sequence
from typing import Any, Final

from scaling.chart import short

Size = dict[str, Any]
REQUESTS: Final = {
    "post": "POST a run",
    "get_run": "GET a run",
    "get_events": "GET its events",
    "list_first_page": "first page",
    "list_deep_page": "deep page",
}
LOG: Final = ("stored_events", "run_heads", "api_keys")
BILLION: Final = 1_000_000_000
SECONDS_AN_HOUR: Final = 3600


def tables(sizes: Sequence[Size], machine: dict[str, Any]) -> str:
    """`sizes`: one object a size, smallest first."""
    where = f"{machine['cores']} cores ({machine['cpu']}), Python {machine['python']}"
    return "\n".join(
        [
            f"Measured on {where}; the load was {machine['load_1m']:g} when it ended.",
            "",
            *_requests(sizes),
            "",
            *_work(sizes),
            "",
            *_disk(sizes[-1]),
            "",
            *_billion(sizes[-1]),
        ]
    )


def _requests(sizes: Sequence[Size]) -> list[str]:
    heads = [f"{short(size['runs'])} runs" for size in sizes]
    rows = []
    for name, told in REQUESTS.items():
        asked = [size["requests"][name] for size in sizes]
        cells = [f"{one['p50_ms']:g} ({one['p99_ms']:g}), {one['ratio']:g}" for one in asked]
        rows.append([told, *cells])
    return _table(["median (p99) in ms, ratio to 200 runs", *heads], rows)


def _work(sizes: Sequence[Size]) -> list[str]:
    heads = [f"{short(size['runs'])} runs" for size in sizes]
    lines = {
        "rebuild of all views, 2 processes, events/s": ("rebuild_events_per_s",),
        "verify_history --all, 2 processes, events/s": ("verify_events_per_s",),
        "appends/s, one process with 16 callers": ("appends", "appends_per_s"),
        "answered → in the list, median ms": ("visible", "answered_to_visible_p50_ms"),
    }
    rows = [[told, *(f"{_value(size, path):,}" for size in sizes)] for told, path in lines.items()]
    return _table(["", *heads], rows)


def _value(size: Size, path: Sequence[str]) -> Any:
    found: Any = size
    for name in path:
        found = found[name]
    return found


def _disk(size: Size) -> list[str]:
    rows = []
    for name, held, indexes in _held(size):
        each = f"{(held + indexes) / size['runs']:,.0f}"
        rows.append([f"`{name}`", _bytes(held), _bytes(indexes), each])
    total_rows = sum(held for _, held, _ in _held(size))
    total_indexes = sum(indexes for _, _, indexes in _held(size))
    each = f"{(total_rows + total_indexes) / size['runs']:,.0f}"
    rows.append(["all", _bytes(total_rows), _bytes(total_indexes), each])
    title = f"at {size['runs']:,} runs, {size['events']:,} events"
    return _table([title, "rows", "indexes", "bytes a run"], rows)


def _billion(size: Size) -> list[str]:
    """Computed, never measured: the largest log's bytes and rates, times what is missing."""
    times = BILLION / size["events"]
    held = {name: (rows + indexes) * times for name, rows, indexes in _held(size)}
    views = sum(sizes for name, sizes in held.items() if name not in LOG)
    position = size["sizes"]["stored_events"]["indexes"]["stored_events_notification_id_idx"]
    stream = size["sizes"]["stored_events"]["indexes"]["stored_events_pkey"]
    rows = [
        ["`stored_events` with its indexes", _bytes(held["stored_events"])],
        ["… its index of streams", _bytes(stream * times)],
        ["… its index of positions", _bytes(position * times)],
        ["`run_heads`, `api_keys`", _bytes(held["run_heads"] + held["api_keys"])],
        ["the four views", _bytes(views)],
        ["rebuild of all views", _hours(BILLION / size["rebuild_events_per_s"])],
        ["verify_history --all", _hours(BILLION / size["verify_events_per_s"])],
    ]
    return _table(["computed for 1,000,000,000 events, from the table above", ""], rows)


def _held(size: Size) -> list[tuple[str, int, int]]:
    """Each table's bytes: rows, what lies out of line with them, and indexes; largest first."""
    held = [
        (name, one["rows"] + one["out_of_line"], sum(one["indexes"].values()))
        for name, one in size["sizes"].items()
    ]
    return sorted(held, key=lambda one: -(one[1] + one[2]))


def _hours(seconds: float) -> str:
    return f"{seconds / SECONDS_AN_HOUR:.1f} h at the measured rate"


def _bytes(count: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
