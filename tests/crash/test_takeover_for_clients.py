"""The AI SDK's own clients watch a run whose worker is killed, and notice nothing but the words."""

from contextlib import ExitStack

import pytest

from tests.support.node_clients import CHAT_API, MISSING, RUNS_API, VERSIONS, node_clients
from tests.support.rest import Rest, parts_of
from tests.support.stacks import BreakableStack, kill

pytestmark = [
    pytest.mark.crash,
    pytest.mark.node,
    pytest.mark.skipif(bool(MISSING), reason=str(MISSING)),
]


@pytest.mark.settings(lease_seconds="1", sandbox="none")
async def test_invariant_7_clients_see_one_message_whoever_writes_it(
    broken: BreakableStack, client: Rest
) -> None:
    details = broken.details
    run = await client.play({"text": "so far and further", "delta_ms": 600})
    before = await client.messages(run)
    default = {"transport": "default", "api": CHAT_API, "id": run.chat_id, "messages": before}
    workflow = {"transport": "workflow", "api": RUNS_API, "id": run.run_id, "messages": before}
    with ExitStack() as stack:
        versions = [
            stack.enter_context(node_clients(version, details["baseUrl"], details["apiKey"]))
            for version in VERSIONS
        ]
        for clients in versions:
            clients.watch(
                {"name": "default resumes", "how": "chat", **default},
                {"name": "default reads", "how": "read", **default},
                *(
                    {"name": f"cut after {count}", "how": "chat", "cutAfter": count, **workflow}
                    for count in range(12)
                ),
            )
        first = broken.start_worker()
        for clients in versions:
            clients.see("text-delta")
        kill(first)
        broken.start_worker()
        results = [seen for clients in versions for seen in clients.results().values()]

    await client.ended(run)
    stored, chunks = await client.messages(run), await client.replay(run)
    cut_off, whole = parts_of(stored[-1], "text")
    assert whole["text"] == "so far and further"
    assert whole["text"].startswith(cut_off["text"])
    for seen in results:
        assert seen.messages == stored, seen.name
        assert seen.error is None, seen.name
        assert len(seen.chunks) == len(chunks), seen.name
