"""Sweeps: a worker killed at every border of a run, and a key that outlives its time to live."""

from collections import Counter

import httpx
import pytest

from tests.support.rest import Rest, Run, bash, parts_of
from tests.support.run_key import run_key
from tests.support.run_story import check_story
from tests.support.stacks import BreakableStack, kill
from tests.support.waiting import until

pytestmark = [pytest.mark.crash, pytest.mark.long, pytest.mark.timeout(600)]

BORDERS = 14
"""More than the events of the run below."""


def careful(*names: str) -> list[dict[str, object]]:
    """A playbook whose commands leave a line each, and whose last one shows all lines."""
    steps = [bash(f"echo {name} >> effects", text=f"now {name} please") for name in names]
    return [*(step | {"delta_ms": 15} for step in steps), bash("cat effects"), {"text": "done"}]


async def check_effects(client: Rest, run: Run, names: tuple[str, ...]) -> None:
    """Invariant 2: no command ran twice, and what has a result ran exactly once."""
    *calls, shown = parts_of((await client.messages(run))[-1], "tool-bash")
    if shown["state"] != "output-available":
        return  # the last look itself was cut short
    effects = Counter(shown["output"]["stdout"].split())
    for name, call in zip(names, calls, strict=True):
        allowed = {1} if call["state"] == "output-available" else {0, 1}
        assert effects[name] in allowed, (name, call["state"], effects)


@pytest.mark.settings(lease_seconds="0.6")
async def test_invariant_2_a_worker_killed_at_any_border_repeats_nothing(
    broken: BreakableStack, client: Rest
) -> None:
    names = ("one", "two")
    worker = broken.start_worker()
    for border in range(1, BORDERS):
        run = await client.play(*careful(*names))

        async def came(run: Run = run, border: int = border) -> bool:
            tags = await client.tags(run)
            return len(tags) >= border or "sandbox_released" in tags

        async with client.watching(run) as watch:
            await until(came, timeout_seconds=20)
            kill(worker)
            worker = broken.start_worker()
            await check_story(client, run, watch)
        await check_effects(client, run, names)
        assert await client.status(run) == "completed"


@pytest.mark.settings(key_ttl_seconds="60")
async def test_invariant_5_I_34_a_held_runs_key_outlives_its_ttl_and_a_deserted_ones_dies(
    broken: BreakableStack, client: Rest
) -> None:
    worker = broken.start_worker()
    run = await client.play(bash("sleep 70; touch late; sleep 600"))
    workspace = broken.workspace_of(run.session_id)
    await until((workspace / "late").exists, timeout_seconds=100)
    key = run_key(broken.details["env"], run.run_id)
    async with Rest(broken.details["baseUrl"], key) as as_run:
        assert await as_run.status(run) == "running"
        kill(worker)

        async def is_dead() -> bool:
            answer = await as_run.http.get(f"/api/chat/runs/{run.run_id}")
            return answer.status_code == httpx.codes.UNAUTHORIZED

        await until(is_dead, timeout_seconds=90)
    assert "key_revoked" not in await client.tags(run)
