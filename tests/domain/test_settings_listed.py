"""docs/settings.md says of every setting what the code does."""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

from runs_domain.settings import NOT_FOR_PROCESSES, PREFIX, RANGES, SECRET_BYTES_MIN, Settings

TEXT = (Path(__file__).parents[2] / "docs/settings.md").read_text("utf-8")
ROW = re.compile(r"^\| `RUNLEDGER_(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = {name.lower(): (default, span) for name, default, span, _ in ROW.findall(TEXT)}
FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


def default_of(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value: Any = field.default
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value) if value else "empty"


def range_of(field: msgspec.structs.FieldInfo) -> str | None:
    """None = it is told in words."""
    if field.name in RANGES:
        low, high = RANGES[field.name]
        return f"{low:g} to {high:.15g}"
    if field.type is bool:
        return "0 or 1"
    if get_origin(field.type) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(field.type))
    return None


def test_every_setting_is_listed_once_and_nothing_else() -> None:
    listed = [name.lower() for name, *_ in ROW.findall(TEXT)]

    assert sorted(listed) == sorted(FIELDS)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_setting_is_listed_with_its_default_and_range(name: str) -> None:
    default, span = ROWS[name]

    assert default == default_of(FIELDS[name])
    assert range_of(FIELDS[name]) in (None, span)


def test_the_other_names_and_the_least_length_of_the_secret_are_told() -> None:
    assert all(f"`{name}`" in TEXT for name in NOT_FOR_PROCESSES)
    assert ROWS["secret"][1] == f"{SECRET_BYTES_MIN} bytes or more"
    named = set(re.findall(rf"{PREFIX}\w+", TEXT))
    assert named == NOT_FOR_PROCESSES | {PREFIX + name.upper() for name in FIELDS}
