"""A run's own key: good while the run lives, never inside its sandbox, dead when it is over."""

import json
from pathlib import Path
from uuid import UUID

from runs_domain.ids import SessionId, sandbox_name
from tests.support.rest import Rest, Run, bash, parts_of
from tests.support.run_key import run_key
from tests.support.waiting import until
from workers.stack.stack import Stack

OWN_RUN = "http://127.0.0.1/api/chat/runs/$(cat run-id)"
WAIT_FOR_ID = "until [ -s run-id ]; do sleep 0.02; done"
"""A run does not know its id before it has started; the test puts it into the workspace."""
FIND_KEYS = r"""
p=recoup_; p=${p}sk_
echo ${p}file > file
DECOY=${p}environment sleep 60 &
(exec -a ${p}argument sleep 60) &
until grep -aq argument /proc/$!/cmdline; do :; done
for place in /proc/[0-9]*; do
    tr '\0' '\n' < $place/environ
    tr '\0' '\n' < $place/cmdline
done 2>/dev/null | grep -ao 'recoup[_]sk_[0-9A-Za-z]*'
grep -arhos --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr 'recoup[_]sk_[0-9A-Za-z]*' /
kill %1 %2
"""


async def tell_id(stack: Stack, run: Run) -> None:
    """Put the run's id where its waiting command looks for it."""
    name = sandbox_name(SessionId(UUID(run.session_id)))
    workspace = data_dir(stack) / "sandboxes" / name / "workspace"
    await until(workspace.exists)
    (workspace / "run-id").write_text(run.run_id)


def data_dir(stack: Stack) -> Path:
    return Path(stack.details["env"]["RUNLEDGER_DATA_DIR"])


def told(stack: Stack) -> dict[str, bytes]:
    """What the stack's processes have written to their logs and were started with."""
    logs = {str(log): log.read_bytes() for log in data_dir(stack).rglob("*.log")}
    assert logs
    pids = (stack.details["pids"]["api"], *stack.details["pids"]["workers"])
    places = [Path(f"/proc/{pid}/{what}") for pid in pids for what in ("cmdline", "environ")]
    return logs | {str(place): place.read_bytes() for place in places}


async def test_a_command_calls_the_api_as_its_run_with_no_key_in_sight(
    rest: Rest, stack: Stack
) -> None:
    run = await rest.play(
        bash(f"{WAIT_FOR_ID}; curl -sS {OWN_RUN}"),
        bash(f"curl -sS -o /dev/null -w '%{{http_code}}' -X POST {OWN_RUN}/cancel"),
        {"text": "done"},
    )
    await tell_id(stack, run)
    await rest.ended(run)

    seen, refused = parts_of((await rest.messages(run))[-1], "tool-bash")
    status = json.loads(seen["output"]["stdout"])
    assert (status["runId"], status["status"]) == (run.run_id, "running")
    assert refused["output"]["stdout"] == "403", "a run's key may only read"


async def test_a_run_does_not_see_its_accounts_other_runs(rest: Rest) -> None:
    before = await rest.start("an earlier run of the same account")
    ask = (
        f"curl -sS -o /dev/null -w '%{{http_code}}' http://127.0.0.1/api/chat/runs/{before.run_id}"
    )
    run = await rest.play(bash(ask), {"text": "done"})
    await rest.ended(run)

    (call,) = parts_of((await rest.messages(run))[-1], "tool-bash")
    assert call["output"]["stdout"] == "404"


async def test_invariant_5_the_key_is_good_until_it_is_revoked_and_gets_401_from_then_on(
    rest: Rest, stack: Stack
) -> None:
    run = await rest.play(bash(WAIT_FOR_ID), {"text": "done"})
    await rest.reached(run, "tool_started")

    async with Rest(stack.details["baseUrl"], run_key(stack.details["env"], run.run_id)) as as_run:
        assert await as_run.status(run) == "running"
        await tell_id(stack, run)
        await rest.reached(run, "key_revoked")
        answer = await as_run.http.get(f"/api/chat/runs/{run.run_id}")

    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthorized"


async def test_invariant_5_the_key_dies_with_a_cancelled_and_with_a_failed_run(
    rest: Rest, stack: Stack
) -> None:
    cancelled = await rest.play(bash("sleep 600"))
    await rest.reached(cancelled, "tool_started")
    await rest.cancel(cancelled)
    failed = await rest.play({"error": "rejected"})
    for run in (cancelled, failed):
        await rest.reached(run, "key_revoked")
        key = run_key(stack.details["env"], run.run_id)
        async with Rest(stack.details["baseUrl"], key) as as_run:
            answer = await as_run.http.get(f"/api/chat/runs/{run.run_id}")
        assert answer.status_code == 401


async def test_no_key_is_in_the_environment_the_processes_or_the_files_of_a_sandbox(
    rest: Rest,
) -> None:
    """The decoys show that the search finds what is there."""
    run = await rest.play(bash(FIND_KEYS), {"text": "done"})
    await rest.ended(run)

    (call,) = parts_of((await rest.messages(run))[-1], "tool-bash")
    found = {key.removeprefix("recoup_sk_") for key in call["output"]["stdout"].split()}
    assert found == {"file", "environment", "argument"}


async def test_invariant_6_the_key_is_in_no_event_log_file_or_process_argument(
    rest: Rest, stack: Stack
) -> None:
    run = await rest.play(bash(f"{WAIT_FOR_ID}; curl -sS {OWN_RUN}"), {"text": "done"})
    await tell_id(stack, run)
    history = await rest.ended(run)

    key = run_key(stack.details["env"], run.run_id)
    assert key not in json.dumps(history)
    assert [place for place, text in told(stack).items() if key.encode() in text] == []


async def test_each_run_has_a_key_of_its_own(rest: Rest, stack: Stack) -> None:
    first, second = await rest.start("the same"), await rest.start("the same")
    env = stack.details["env"]
    assert run_key(env, first.run_id) != run_key(env, second.run_id)
    minted = [
        event["data"]["keyId"]
        for run in (first, second)
        for event in await rest.ended(run)
        if event["type"] == "run.key_minted.v1"
    ]
    assert len(set(minted)) == 2
