"""`scripts/plot_scaling.py`: the plot in the docs is what the measured figures make."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from tests.support.operators import SCRIPTS, run_script

DOCS: Final = SCRIPTS.parent / "docs"
ENV: Final = {"PATH": os.environ["PATH"]}
SVG: Final = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A copy of what the docs have of it."""
    for name in ("scaling.json", "scaling.svg", "scaling.md"):
        shutil.copy(DOCS / name, tmp_path)
    return tmp_path


def plot(docs: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return run_script("plot_scaling.py", "--docs", str(docs), *options, env=ENV)


def test_the_plot_and_the_tables_in_the_docs_are_what_their_figures_make() -> None:
    done = plot(DOCS, "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_figure_that_changed_is_told_and_then_drawn_and_tabled(docs: Path) -> None:
    measured = json.loads((docs / "scaling.json").read_text("utf-8"))
    measured["sizes"][-1]["requests"]["get_run"]["p50_ms"] = 4321.25
    (docs / "scaling.json").write_text(json.dumps(measured))
    done = plot(docs, "--check")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"plot_scaling: {name} is not what scaling.json makes"
        for name in ("scaling.svg", "scaling.md")
    ]
    assert (docs / "scaling.svg").read_bytes() == (DOCS / "scaling.svg").read_bytes()
    assert plot(docs).returncode == 0
    assert plot(docs, "--check").returncode == 0
    assert "GET a run 4.32k" in (docs / "scaling.svg").read_text("utf-8")
    assert "| 4321.25 (" in (docs / "scaling.md").read_text("utf-8")


def test_every_line_and_axis_has_its_name_and_unit(docs: Path) -> None:
    drawn = ET.parse(docs / "scaling.svg")  # noqa: S314 - made here
    texts = ["".join(text.itertext()) for text in drawn.iter(f"{SVG}text")]
    for title in ("Requests, median, ms", "On disk, GB (logarithmic)", "The whole log, s"):
        assert any(text.startswith(title) for text in texts), title
    assert texts.count("runs in the log, 9 events each (logarithmic)") == 4
    for name in ("POST a run", "GET a run", "first page", "deep page", "verify all", "views"):
        assert any(text.startswith(name) for text in texts), name
    assert "prefers-color-scheme: dark" in (docs / "scaling.svg").read_text("utf-8")
    sizes = len(json.loads((docs / "scaling.json").read_text("utf-8"))["sizes"])
    lines = drawn.findall(f".//{SVG}polyline")
    assert {len(line.attrib["points"].split()) for line in lines} == {sizes}


@pytest.mark.parametrize("content", ["{", "{}", '{"sizes": [], "machine": {}}'])
def test_figures_that_are_none_are_told_in_a_sentence(docs: Path, content: str) -> None:
    (docs / "scaling.json").write_text(content)
    before = (docs / "scaling.svg").read_bytes()
    done = plot(docs)
    assert done.returncode == 2
    assert done.stderr.startswith("plot_scaling: cannot be made: ")
    assert "Traceback" not in done.stderr
    assert (docs / "scaling.svg").read_bytes() == before
