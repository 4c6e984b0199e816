"""One name for a worker, in the queue, in the event log and in the logs of the others."""

import pytest
import redis

from runs_domain.storage import redis_names as names
from tests.support.rest import Rest, bash
from tests.support.stacks import BreakableStack, kill
from tests.support.waiting import until

pytestmark = pytest.mark.crash


async def test_a_lost_worker_is_named_as_the_queue_and_the_event_log_name_it(
    broken: BreakableStack, client: Rest
) -> None:
    first = broken.start_worker()
    server = redis.Redis.from_url(broken.valkey.url())
    (name,) = await until(lambda: server.hkeys(names.JOB_WORKERS))
    server.close()
    run = await client.play(bash("sleep 600"), {"text": "done"})
    await client.reached(run, "tool_started")
    kill(first)
    second = broken.start_worker()

    said = f"WARNING workers.takeover took over run {run.run_id} as attempt 2: its worker"
    await until(lambda: f"{said} {name.decode()} was lost" in broken.log_of(second))
    actors = [event["actor"] for event in await client.ended(run)]
    workers = [actor for actor in actors if actor.startswith("worker:")]
    assert workers[0] == f"worker:{name.decode()}"
    assert len(set(workers)) == 2
