"""Any server that speaks OpenAI's chat completions: a gateway, a provider, one's own machine.

The SDK's own retries are off: the driver retries, where it is counted and can be cancelled.
Nothing of a server's body goes into an error, because that is where prompts and keys come back.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Final

import msgspec
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AsyncStream,
    DefaultAsyncHttpxClient,
    Timeout,
)

from runs_domain.errors import ModelError, ModelOverloaded, ModelRejected, ModelTimeout
from runs_domain.events import Json
from runs_domain.model_ids import is_gateway_id
from runs_domain.model_port import ModelEvent, ModelRequest
from runs_domain.settings import Secret
from workers.adapters.chat_answer import ChatAnswer
from workers.adapters.chat_messages import chat_messages, chat_tools
from workers.adapters.retry_after import retry_after_seconds

CONNECT_SECONDS: Final = 10.0
"""To reach the server, and to get a connection of the pool."""
CHUNK_SECONDS: Final = 60.0
"""Between two signs of life of the server, comments included, and before the first."""
KEYLESS: Final = "none"
"""For servers without keys: the SDK wants one, and must not find one in the environment."""

DIGEST_CHARS: Final = 16
"""Of a body's SHA-256 in hex: enough to tell one run's bodies apart."""
_PASSING: Final = frozenset({408, 409, 425, 429})
"""Refusals that pass. 409: the same request of a lost worker is still being answered there."""
SERVER_ERRORS: Final = 500
_REASONS: Final = {
    401: "it does not accept this installation's key",
    402: "its account is not covered",
    403: "it does not allow this",
    404: "it does not know the model",
    413: "the conversation is too large for it",
}
_FINAL_WORDS: Final = frozenset(
    {
        "authentication_error",
        "content_filter",
        "content_policy_violation",
        "context_length_exceeded",
        "invalid_request_error",
        "not_found_error",
        "permission_error",
    }
)
"""Codes and types of errors inside a stream that no retry mends."""


class OpenAIModel:
    def __init__(
        self,
        base_url: str,
        api_key: Secret,
        *,
        total_seconds: float,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> None:
        """`total_seconds` bounds one call from the request to the last chunk."""
        self._base_url = base_url
        self._api_key = api_key
        self._total_seconds = total_seconds
        self._timeout = Timeout(
            chunk_seconds, connect=min(CONNECT_SECONDS, total_seconds), pool=CONNECT_SECONDS
        )
        self._client: AsyncOpenAI | None = None

    def serves(self, model_id: str) -> bool:
        return is_gateway_id(model_id)

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        answer = ChatAnswer()
        try:
            async with aclosing(self._chunks(request)) as chunks:
                async for chunk in chunks:
                    for event in answer.add(chunk):
                        yield event
        except (ModelOverloaded, ModelTimeout):
            if not answer.is_whole:
                raise
        for event in answer.finish():
            yield event

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _chunks(self, request: ModelRequest) -> AsyncGenerator[object, None]:
        """The stream's JSON values; closed, with its connection, however this ends."""
        body = _body(request)
        deadline = asyncio.get_running_loop().time() + self._total_seconds
        with _typed_failures():
            async with asyncio.timeout_at(deadline):
                stream = await self._connected().post(
                    "/chat/completions",
                    body=body,
                    options={"headers": {"Idempotency-Key": idempotency_key(request, body)}},
                    cast_to=object,
                    stream=True,
                    stream_cls=AsyncStream[object],
                )
            try:
                while True:
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(stream, None)
                    if chunk is None:
                        return
                    yield chunk
            finally:
                await stream.close()

    def _connected(self) -> AsyncOpenAI:
        """Made at the first call: a client belongs to the event loop that it is used in."""
        if self._client is None:
            self._client = AsyncOpenAI(
                base_url=self._base_url,
                api_key=self._api_key.reveal() or KEYLESS,
                max_retries=0,
                http_client=DefaultAsyncHttpxClient(timeout=self._timeout, follow_redirects=False),
            )
            # Other accounts' names in the environment are not ours to send.
            self._client.organization = self._client.project = None
        return self._client


def idempotency_key(request: ModelRequest, body: Json) -> str:
    """One key for one request, whichever worker sends it.

    After a lost or stopped worker nobody knows what became of its call: the next one sends the
    same request under the same key, and a server that knows keys neither runs nor bills it twice.
    A try that failed has had its answer, which such a server would only repeat: the next try is a
    new request. So is one with another body, as a newer release may build it: a server that
    compares would refuse the old key for it.
    """
    digest = hashlib.sha256(msgspec.json.encode(body)).hexdigest()[:DIGEST_CHARS]
    return f"{request.run_id}-{request.step}-{request.attempt_tries}-{digest}"


def _body(request: ModelRequest) -> Json:
    body: Json = {
        "model": request.model,
        "messages": chat_messages(request.system, request.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = chat_tools(request.tools)
    return body


@contextmanager
def _typed_failures() -> Iterator[None]:
    try:
        yield
    except (TimeoutError, APITimeoutError):
        raise ModelTimeout("The model's server did not answer in time") from None
    except APIStatusError as error:
        wait_seconds = retry_after_seconds(error.response.headers)
        raise _of_status(error.status_code, wait_seconds) from None
    except APIConnectionError:
        raise ModelOverloaded("The connection to the model's server failed") from None
    except APIError as error:
        raise _of_words(error.code, error.type) from None
    except ValueError:
        raise ModelOverloaded("The model's server sent something that is not JSON") from None


def _of_status(status: int, retry_after: float | None = None) -> ModelError:
    if status in _PASSING or status >= SERVER_ERRORS:
        sentence = f"The model's server is overloaded or failing ({status})"
        return ModelOverloaded(sentence, retry_after_seconds=retry_after)
    reason = _REASONS.get(status, "it rejected the request")
    return ModelRejected(f"The model's server answered {status}: {reason}")


def _of_words(code: str | None, kind: str | None) -> ModelError:
    """An error that came inside a stream, after its 200."""
    if code is not None and code.isdecimal():
        return _of_status(int(code))
    if {code, kind} & _FINAL_WORDS:
        return ModelRejected("The model's server rejected the request while answering")
    return ModelOverloaded("The model's server failed while answering")
