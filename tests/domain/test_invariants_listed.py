"""A number in code or in a test's name leads somewhere."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"(?<![A-Za-z])([IL])[-_](\d{2})(?!\d)")


def test_every_incident_that_is_named_is_explained() -> None:
    explained = (ROOT / "docs/invariants.md").read_text("utf-8")
    named = {
        f"{kind}-{number}"
        for folder in ("src", "tests")
        for file in (ROOT / folder).rglob("*.py")
        for kind, number in NUMBER.findall(file.read_text("utf-8"))
    }

    assert {number for number in named if number not in explained} == set()
    assert "I-34" in named
