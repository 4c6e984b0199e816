"""What must hold of every run that has ended, however it went."""

from itertools import zip_longest
from typing import Any

from runs_domain.frames import decode
from runs_domain.stream_reader import StreamReader
from tests.support.rest import Rest, Run, tag_of
from tests.support.watch import Watch

BEGIN = ["requested", "provisioned", "key_minted", "started"]
END = ["completed", "key_revoked", "sandbox_released"]
ENDINGS = {"completed", "failed", "cancelled"}


def check_history(history: list[dict[str, Any]]) -> None:
    """One end (invariant 1), the fence (3), the order of the end (4), an unbroken chain."""
    tags = [tag_of(event) for event in history]
    assert [event["version"] for event in history] == list(range(1, len(history) + 1))
    endings = [tag for tag in tags if tag in ENDINGS]
    assert len(endings) == 1, tags
    after = tags[tags.index(endings[0]) + 1 :]
    assert after == [*["key_revoked"] * ("key_minted" in tags), "sandbox_released"], tags
    attempt = 1
    for before, event in zip([None, *history], history, strict=False):
        if tag_of(event) == "resumed":
            assert event["data"]["attempt"] == attempt + 1
            attempt += 1
        if event["actor"].startswith("worker:"):
            assert event["attempt"] == attempt, (attempt, event)
        if before is not None:
            assert event["prev"] == before["hash"]


def first_difference(live: list[bytes], told: list[bytes]) -> tuple[int, object, object] | None:
    """Where two readers of a run were told different things: the index and both chunks."""
    for index, (first, second) in enumerate(zip_longest(live, told)):
        if first != second:
            return index, first, second
    return None


async def check_story(rest: Rest, run: Run, watch: Watch) -> StreamReader:
    """Live stream, stream told again, messages and history say the same (invariant 7)."""
    live = await watch.finished()
    check_history(await rest.ended(run))
    difference = first_difference(live, await rest.replay(run))
    assert difference is None, difference
    reader = StreamReader().read(decode(chunk) for chunk in live)
    assert reader.finished
    assert reader.message == (await rest.messages(run))[-1]
    return reader
