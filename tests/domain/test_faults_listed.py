"""What the documents say of tests is so: each that they name is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(test_\w+)`")
NAMED_FILE = re.compile(r"`(test_\w+\.py)`")
DEFINED = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)


def test_every_test_that_the_list_names_is_there() -> None:
    listed = NAMED.findall((ROOT / "docs/faults_of_other_queues.md").read_text("utf-8"))
    files = (ROOT / "tests").glob("*/test_*.py")
    defined = {name for file in files for name in DEFINED.findall(file.read_text("utf-8"))}

    assert listed
    assert set(listed) - defined == set()


def test_every_file_of_tests_that_the_promises_of_recovery_name_is_there() -> None:
    named = set(NAMED_FILE.findall((ROOT / "docs/recovery.md").read_text("utf-8")))

    assert named
    assert named - {file.name for file in (ROOT / "tests").glob("*/test_*.py")} == set()
