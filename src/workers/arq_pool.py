"""What arq's Worker asks of its Redis pool, answered without Redis.

arq keeps a job's function and arguments under a key of their own and counts tries beside it. Ours
stand in the stream entry, and tries are counted in the run's events; so what `run_job` looks up
is here already, and no `arq:` key is ever written.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from arq.constants import job_key_prefix

FIRST_TRY: Final = 1

Payload: TypeAlias = Mapping[str, Any]
"""As arq's own deserializer gives it: f(unction), a(rguments), k(eywords), t(ry), et (ms)."""

StartCron: TypeAlias = Callable[[str, str, datetime | None], Awaitable[None]]


def payload(function: str, arguments: tuple[Any, ...], now_ms: int) -> Payload:
    return {"f": function, "a": arguments, "k": {}, "t": None, "et": now_ms}


class ArqPool:
    def __init__(self, payloads: Mapping[str, Payload], start_cron: StartCron) -> None:
        self._payloads = payloads
        self._start_cron = start_cron

    def pipeline(self, *, transaction: bool = True) -> "_Lookup":  # noqa: ARG002 - arq's call
        return _Lookup(self._payloads)

    async def enqueue_job(
        self,
        function: str,
        *,
        _job_id: str,
        _queue_name: str,
        _defer_until: datetime | None,
    ) -> None:
        """Only `run_cron` comes here."""
        await self._start_cron(function, _job_id, _defer_until)


class _Lookup:
    """arq asks three things of a job before it runs it: its payload, its try, its expiry."""

    def __init__(self, payloads: Mapping[str, Payload]) -> None:
        self._payloads = payloads
        self._answers: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def get(self, key: str) -> None:
        self._answers.append(self._payloads.get(key.removeprefix(job_key_prefix)))

    def incr(self, _key: str) -> None:
        self._answers.append(FIRST_TRY)

    def expire(self, _key: str, _seconds: int) -> None:
        self._answers.append(True)

    async def execute(self) -> list[Any]:
        return self._answers
