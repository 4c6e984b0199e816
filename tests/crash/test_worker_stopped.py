"""Workers that are told to stop hand their runs over; no try is lost."""

import secrets
import signal

import pytest

from tests.support.rest import Rest, bash, parts_of, tag_of
from tests.support.run_story import check_story
from tests.support.sandboxes import processes_naming
from tests.support.stacks import BreakableStack, kill
from tests.support.waiting import until

pytestmark = pytest.mark.crash


async def test_a_worker_that_is_told_to_stop_hands_its_run_over(
    broken: BreakableStack, client: Rest
) -> None:
    first = broken.start_worker()
    steps = [bash(f"echo {number} >> steps; sleep 0.1") for number in range(12)]
    run = await client.play(*steps, bash("cat steps"), {"text": "done"})
    async with client.watching(run) as watch:
        await client.reached(run, "tool_started")
        kill(first, signal.SIGTERM)
        assert first.child.exit_code == 0
        broken.start_worker()

        reader = await check_story(client, run, watch)

    resumed = [e["data"] for e in await client.history(run) if tag_of(e) == "resumed"]
    assert [(one["reason"], one["attempt"]) for one in resumed] == [("handover", 2)]
    calls = parts_of(reader.message, "tool-bash")
    assert [call["state"] for call in calls] == ["output-available"] * 13
    assert calls[-1]["output"]["stdout"].split() == [str(number) for number in range(12)]


@pytest.mark.settings(step_grace_seconds="0.5")
async def test_a_step_that_outlasts_the_grace_is_cut_off_and_no_try_is_lost(
    broken: BreakableStack, client: Rest
) -> None:
    token = f"token-{secrets.token_hex(8)}"
    first = broken.start_worker()
    run = await client.play(
        bash(f"echo done >> effects; exec -a {token} sleep 600"), bash("cat effects"), {"text": "."}
    )
    async with client.watching(run) as watch:
        await until(lambda: processes_naming(token))
        broken.start_worker()
        kill(first, signal.SIGTERM)
        assert processes_naming(token) == []

        reader = await check_story(client, run, watch)

    resumed = [e["data"] for e in await client.history(run) if tag_of(e) == "resumed"]
    assert [one["reason"] for one in resumed] == ["handover"]
    cut, counted = parts_of(reader.message, "tool-bash")
    assert cut["errorText"] == "interrupted: outcome unknown"
    assert counted["output"]["stdout"] == "done\n"
