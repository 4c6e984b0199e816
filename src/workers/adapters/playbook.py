"""What `scripted/playbook` plays: the last user text, JSON, checked before it is used."""

import re
from typing import Annotated, Final, Literal

import msgspec

from runs_domain.clean import clean_json
from runs_domain.errors import ModelRejected
from runs_domain.events import Json

CALLS_MAX: Final = 1_000
"""Model calls in one playbook."""
TOOLS_MAX: Final = 100
"""Tool calls of one model call."""
DELTA_MS_MAX: Final = 60_000
COUNT_MAX: Final = 1_000_000
"""Of tries and of tokens."""

Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
Failure = Literal["overloaded", "rejected", "timeout"]


class _Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class PlaybookTool(_Shape, frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    input: Json = {}


class PlaybookUsage(_Shape, frozen=True, rename="camel"):
    input_tokens: Count = 1
    output_tokens: Count = 1


class PlaybookCall(_Shape, frozen=True):
    text: str = ""
    delta_ms: Annotated[int, msgspec.Meta(ge=0, le=DELTA_MS_MAX)] = 0
    tools: Annotated[tuple[PlaybookTool, ...], msgspec.Meta(max_length=TOOLS_MAX)] = ()
    error: Failure | None = None
    times: Count = 1
    """The error is raised in this many first tries of each attempt."""
    usage: PlaybookUsage = PlaybookUsage()


class Playbook(_Shape, frozen=True):
    calls: Annotated[tuple[PlaybookCall, ...], msgspec.Meta(max_length=CALLS_MAX)]


PAST_THE_END: Final = PlaybookCall()
_PATH: Final = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


SHAPE: Final = (
    'it reads {"calls": [{"text", "delta_ms", "tools": [{"name", "input"}], "error", "times",'
    ' "usage": {"inputTokens", "outputTokens"}}]}, and every field may be left out'
)


def parse_playbook(text: str) -> Playbook:
    """Cleaned as any model output. Raises ModelRejected, which names the first bad place alone."""
    try:
        return msgspec.convert(clean_json(msgspec.json.decode(text)), Playbook)
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error))
        place = found["path"] if found else "its top level"
        raise ModelRejected(f"The playbook is not valid at {place}: {SHAPE}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ModelRejected("The playbook, which is the last user text, is not JSON") from None
