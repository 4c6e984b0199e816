"""docs/retention.md names every Redis key and every statement that removes something."""

import re
from pathlib import Path
from types import FunctionType

from runs_domain.settings import RANGES, Settings
from runs_domain.storage import receipts
from runs_domain.storage import redis_names as names
from runs_domain.storage.rebuild_shadow import REPLACED, SHADOW
from tests.support.deletions import found

TEXT = (Path(__file__).parents[2] / "docs/retention.md").read_text("utf-8")
CODE = re.compile(r"`([^`]+)`")


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    text = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def listed(section: str) -> list[str]:
    return [name for row in rows(section) for name in CODE.findall(row[0])]


def key_families() -> set[str]:
    """What redis_names calls the keys that it makes: constants and functions."""
    constants = {
        name
        for name, value in vars(names).items()
        if isinstance(value, str) and value.startswith("rl:") and "*" not in value
    }
    functions = {name for name, value in vars(names).items() if isinstance(value, FunctionType)}
    return constants | functions


def test_every_redis_key_is_listed_once_with_how_long_it_stays() -> None:
    found_names = listed("Redis")
    assert sorted(found_names) == sorted(key_families())


def test_the_keys_without_a_time_to_live_are_those_that_are_listed_so() -> None:
    without = {
        getattr(names, name)
        for cells in rows("Redis")
        if cells[1].startswith("without")
        for name in CODE.findall(cells[0])
    }
    assert without == names.WITHOUT_TTL


def test_every_statement_that_removes_something_is_listed_with_its_reason() -> None:
    """Nothing else is ever deleted: whoever adds one says here why nothing is lost."""
    table = {
        CODE.findall(file)[0]: set(CODE.findall(words))
        for file, words, reason in rows("Every statement that removes something")
        if reason.strip()
    }
    assert table == found()


def test_nothing_in_the_code_removes_events_or_what_tells_of_them() -> None:
    """By the words beside every DELETE, TRUNCATE and DROP."""
    kept = "stored_events|run_heads|api_keys|accounts|account_data_keys|dead_letters|erasures"
    for file, words in found().items():
        if words & {"DELETE FROM", "TRUNCATE", "DROP TABLE"}:
            text = (Path(__file__).parents[2] / file).read_text("utf-8")
            assert not re.search(rf"(DELETE FROM|TRUNCATE|DROP TABLE)\s+(\w+,\s*)*({kept})\b", text)


def test_the_times_that_are_told_are_the_codes() -> None:
    default = next(
        str(value)
        for name, value in zip(
            Settings.__struct_fields__[::-1], Settings.__struct_defaults__[::-1], strict=False
        )
        if name == "chunks_kept_seconds"
    )
    for said in (
        f"`RUNLEDGER_CHUNKS_KEPT_SECONDS` ({default} by default)",
        f"`{SHADOW}` or `{REPLACED}`",
        f"{names.CHUNKS_LIVE_SECONDS // 3600} h after the last frame",
        f"{names.CRON_LOCK_SECONDS} s",
        f"{names.DUTY_SECONDS} s after",
        f"{2 * names.HEALTH_SECONDS} s after the worker's last word",
        f"{names.WORKER_SILENT_SECONDS} s after the last word of any worker",
        f"{receipts.RECEIPTS_MAX:,} a process",
        f"{receipts.RECEIPT_KEPT_DAYS} days",
    ):
        assert said in TEXT, said
    assert RANGES["chunks_kept_seconds"][1] <= names.CHUNKS_LIVE_SECONDS
