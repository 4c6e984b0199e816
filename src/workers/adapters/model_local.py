"""`local/smollm2-135m`: a real language model with no network, for demonstrations and tests.

It blocks and knows one thing at a time. So there is one thread for it, calls wait their turn in
front of that thread, and what it says crosses into the event loop through a queue that holds a
whole answer: a slow reader never holds up the model.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Any, Final, TypeAlias

import msgspec

from runs_domain.clean import clean_text
from runs_domain.errors import ModelOverloaded, ModelRejected, ModelTimeout
from runs_domain.events import FinishReason, Json, Usage
from runs_domain.model_ids import LOCAL
from runs_domain.model_port import ModelEnd, ModelEvent, ModelRequest, TextDelta
from workers.adapters import smollm

CALLS_MAX: Final = 16
"""Calls of this process that run or wait; one more is told to come back."""
PROMPT_CHARS_MAX: Final = 1_000
"""Code points of the conversation that are shown to the model, the newest ones. Reading takes it
about a second for each 60, and nothing can stop it meanwhile."""
SYSTEM: Final = "You are a helpful assistant. Answer in one short paragraph."
"""In place of the run's own prompt: its facts and tools are beyond this model."""
CHUNKS_MAX: Final = 2 * smollm.ANSWER_TOKENS_MAX
FREE: Final = "0"

Answer: TypeAlias = Callable[[Sequence[Json]], Iterator[Any]]
"""Chat messages in, the runtime's chunks out; called and consumed on the model's thread."""

_FINISH_REASONS: Final[dict[str, FinishReason]] = {"stop": "stop", "length": "length"}


class _Piece(msgspec.Struct, frozen=True):
    """What is kept of a chunk, whose objects belong to the model's thread."""

    text: str
    finish_reason: str | None
    usage: Usage


class _Call:
    """One answer on its way from the thread to the loop that waits for it."""

    def __init__(self, chunks: Callable[[], Iterator[Any]], thread: ThreadPoolExecutor) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks = chunks
        self._stop = Event()
        self.pieces: asyncio.Queue[_Piece | None] = asyncio.Queue(maxsize=CHUNKS_MAX)
        """None is the end, however it came about."""
        self.future = thread.submit(self._generate)
        self.future.add_done_callback(lambda _: self._hand_over(None))

    def stop(self) -> None:
        """Out of the queue, or off the thread after the token in hand."""
        self._stop.set()
        self.future.cancel()

    def _generate(self) -> None:
        for chunk in self._chunks():
            if self._stop.is_set():
                return
            self._hand_over(_piece(chunk))

    def _hand_over(self, piece: _Piece | None) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


class LocalModel:
    def __init__(self, *, total_seconds: float, answer: Answer = smollm.answer) -> None:
        """`total_seconds` bounds one call, the wait for its turn included."""
        self._total_seconds = total_seconds
        self._answer = answer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-model")
        self._calls: list[_Call] = []

    def serves(self, model_id: str) -> bool:
        return model_id == LOCAL

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        messages = local_messages(request.messages)
        call, last = self._begin(messages), None
        deadline = asyncio.get_running_loop().time() + self._total_seconds
        try:
            while (piece := await _next(call, deadline)) is not None:
                last = piece
                if piece.text:
                    yield TextDelta(text=piece.text)
        finally:
            call.stop()
        yield _end(call.future, last)

    async def close(self) -> None:
        """Waits for no answer; the thread ends by itself after the token in hand."""
        for call in self._calls:
            call.stop()
        self._thread.shutdown(wait=False)

    def _begin(self, messages: Sequence[Json]) -> _Call:
        self._calls = [call for call in self._calls if not call.future.done()]
        if len(self._calls) >= CALLS_MAX:
            raise ModelOverloaded(f"{CALLS_MAX} calls already wait for the local model")
        call = _Call(partial(self._answer, messages), self._thread)
        self._calls.append(call)
        return call


def local_messages(messages: Sequence[Json]) -> list[Json]:
    """The newest texts of both sides, as many as fit, after our own short system message."""
    chosen: list[Json] = []
    left = PROMPT_CHARS_MAX
    for message in reversed(messages):
        text = "".join(part["text"] for part in message["parts"] if part["type"] == "text")[:left]
        if text.strip() and message["role"] in {"user", "assistant"}:
            chosen.append({"role": message["role"], "content": text})
            left -= len(text)
    if not any(message["role"] == "user" for message in chosen):
        raise ModelRejected("The local model was given no text")
    return [{"role": "system", "content": SYSTEM}, *reversed(chosen)]


async def _next(call: _Call, deadline: float) -> _Piece | None:
    try:
        async with asyncio.timeout_at(deadline):
            return await call.pieces.get()
    except TimeoutError:
        raise ModelTimeout("The local model did not finish in time") from None


def _piece(chunk: Any) -> _Piece:
    choice = chunk.choices[0]
    return _Piece(
        text=clean_text(choice.delta.content or ""),
        finish_reason=choice.finish_reason,
        usage=_usage(chunk.usage),
    )


def _usage(usage: Any) -> Usage:
    if usage is None:
        return Usage()
    details = usage.prompt_tokens_details
    cached = 0 if details is None else details.cached_tokens or 0
    return Usage(
        input_tokens=usage.prompt_tokens - cached,
        cached_input_tokens=cached,
        output_tokens=usage.completion_tokens,
    )


def _end(future: Future[None], last: _Piece | None) -> ModelEnd:
    if future.cancelled():
        raise ModelOverloaded("The local model is closing")
    error = future.exception()
    if error is not None:
        raise ModelOverloaded(f"The local model failed ({type(error).__name__})")
    if last is None or last.finish_reason is None:
        raise ModelOverloaded("The local model's answer broke off")
    reason = _FINISH_REASONS.get(last.finish_reason, "other")
    return ModelEnd(finish_reason=reason, usage=last.usage, cost=FREE)
