"""What the model is told of its run: facts that it must not have to guess (incident I-39)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from runs_domain.events import Provisioned, Requested
from runs_domain.model_port import ToolSpec

ROLE: Final = """\
You work through one task on your own. Nobody reads along or answers questions until you are done, \
so decide what is reasonable, do it, and end with a short account of what you did and found."""
HONESTY: Final = """\
Say plainly what you could not do. Report only what you have seen in the conversation or in a \
tool's output."""


def system_prompt(
    requested: Requested,
    provisioned: Provisioned | None,
    tools: Sequence[ToolSpec],
    now: datetime,
) -> str:
    """`tools` are those that the model is offered. `now` comes from the log: whoever makes the
    call, or makes it again, says the same, byte for byte."""
    facts = [
        f"- Account: {requested.account_id}",
        f"- Artist: {requested.artist_id}"
        if requested.artist_id is not None
        else "- Artist: none was given; do not pick one yourself",
        f"- Now: {now:%Y-%m-%d %H:%M} UTC",
        *_workplace(provisioned, tools),
    ]
    return "\n\n".join((ROLE, "Facts of this run:\n" + "\n".join(facts), HONESTY))


def _workplace(provisioned: Provisioned | None, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
    if not tools or provisioned is None:
        return ("- Tools: none; answer from what you know",)
    return (
        f"- Working directory: {provisioned.working_directory}, the only place that is kept",
        f"- Tools: {', '.join(tool.name for tool in tools)}",
    )
