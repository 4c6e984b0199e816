"""How a persisted step was streamed, kept beside its parts.

The text itself stands in the parts once; the layout says in which pieces and in which order it
went out, so that the frames of a finished run come out of the log byte for byte, for ever.
"""

from typing import Any, Literal

import msgspec

FrameKind = Literal[
    "start",
    "start-step",
    "finish-step",
    "text-start",
    "text-delta",
    "text-end",
    "reasoning-start",
    "reasoning-delta",
    "reasoning-end",
    "tool-input-start",
    "tool-input-delta",
    "tool-input-available",
    "tool-output-available",
    "tool-output-error",
]


class LayoutItem(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One frame, or a run of deltas of one part.

    `part` is an index into the parts of the same event. `lengths` are the deltas' sizes in code
    points of that part's text; `raw` are the pieces of a tool's input as the model wrote them.
    """

    frame: FrameKind
    part: int = -1
    lengths: tuple[int, ...] = ()
    raw: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None

    def frame_count(self) -> int:
        return len(self.lengths) or len(self.raw) or 1
