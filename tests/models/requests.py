"""Model calls with sensible values, and what came of them."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from runs_domain.model_port import Model, ModelEvent, ModelRequest, TextDelta
from tests.support.builders import FIRST, RUN, user_message


def model_request(text: str = "Say hello", **changes: Any) -> ModelRequest:
    values: dict[str, Any] = {
        "run_id": RUN,
        "attempt": FIRST,
        "step": 0,
        "attempt_tries": 0,
        "model": "acme/small",
        "system": "",
        "messages": (user_message(text),),
        "tools": (),
    }
    return ModelRequest(**(values | changes))


async def events_of(model: Model, request: ModelRequest) -> list[ModelEvent]:
    return [event async for event in model.stream(request)]


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def closing(stream: AsyncIterator[ModelEvent]) -> Any:
    """For tests that leave a stream early."""
    return aclosing(stream)  # type: ignore[type-var]
