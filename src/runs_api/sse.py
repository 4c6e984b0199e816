"""The frames of a server-sent event stream, and nothing else. Chunks come encoded."""

from typing import Final

KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment: no client sees it, every proxy does."""
DONE: Final = b"data: [DONE]\n\n"

PROTOCOL_HEADER: Final = "x-vercel-ai-ui-message-stream"

HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
    PROTOCOL_HEADER: "v1",
}
RUN_ID_HEADER: Final = "x-workflow-run-id"
TAIL_INDEX_HEADER: Final = "x-workflow-stream-tail-index"


def encode(index: int, chunk: bytes) -> bytes:
    """One chunk (JSON, so no line break in it) with its index as the event's id."""
    return b"id: %d\ndata: %b\n\n" % (index, chunk)
