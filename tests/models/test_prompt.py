"""The prompt states the run's facts, so that the model need not guess them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from runs_domain.events import Provisioned
from runs_domain.model_port import ToolSpec
from runs_domain.run import INITIAL, decide
from tests.support.builders import ACCOUNT, request_run
from workers.agent.prompt import system_prompt

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
BASH = ToolSpec(name="bash", description="Run it", input_schema={"type": "object"})
PLACE = Provisioned(sandbox="s", provider="local", state="named", working_directory="/workspace")


def prompt(*tools: ToolSpec, **changes: Any) -> str:
    [requested] = decide(INITIAL, request_run(**changes))
    return system_prompt(requested, PLACE, tools, NOW)  # type: ignore[arg-type]


def test_it_names_account_place_tools_and_time() -> None:
    told = prompt(BASH)

    for fact in (str(ACCOUNT), "/workspace", "bash", "2026-03-04 05:06 UTC"):
        assert fact in told


def test_I_39_the_artist_is_named_or_said_to_be_missing_never_left_to_a_guess() -> None:
    assert "Artist: a-17" in prompt(artist_id="a-17")
    assert "none was given; do not pick one" in prompt()


def test_a_run_without_tools_is_told_so_and_given_no_place() -> None:
    told = prompt()

    assert "Tools: none" in told
    assert "/workspace" not in told


@pytest.mark.parametrize("field", ["title", "messages", "metadata"])
def test_content_of_the_request_stays_out_of_the_prompt(field: str) -> None:
    value: Any = {
        "title": "canary",
        "messages": ({"id": "m", "role": "user", "parts": [{"type": "text", "text": "canary"}]},),
        "metadata": {"k": "canary"},
    }[field]

    assert "canary" not in prompt(BASH, **{field: value})
