"""The same request to two stacks in turn, so that both meet the same machine."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from scripts.bench_parts.lib import LeanClient, quantile_ms

WARM_UP = 20
PAUSE_SECONDS = 0.005
"""Between two requests: what one set off should not meet the next."""


class Asked(NamedTuple):
    details: dict[str, Any]
    key: str
    method: str
    path: Callable[[], str]
    body: bytes = b""


async def paired(sides: Sequence[Asked], *, times: int, status: int) -> dict[str, Any]:
    """Milliseconds of both, the first side's named plainly and the second's `small_…`, and the
    ratio of their medians. Ends the benchmark at an answer other than `status`.
    """
    clients = [await LeanClient(side.details["baseUrl"], side.key).open() for side in sides]
    took: list[list[float]] = [[] for _ in sides]
    for number in range(WARM_UP + times):
        for side, client, seconds in zip(sides, clients, took, strict=True):
            path = side.path()
            begin = time.perf_counter()
            answered, answer = await client.call(side.method, path, side.body)
            if number >= WARM_UP:
                seconds.append(time.perf_counter() - begin)
            if answered != status:
                raise SystemExit(f"{side.method} {path} answered {answered}: {answer!r}")
            await asyncio.sleep(PAUSE_SECONDS)
    for client in clients:
        client.close()
    large, small = took
    medians = [quantile_ms(seconds, 0.5) for seconds in took]
    return {
        "p50_ms": medians[0],
        "p99_ms": quantile_ms(large, 0.99),
        "small_p50_ms": medians[1],
        "small_p99_ms": quantile_ms(small, 0.99),
        "ratio": round(medians[0] / medians[1], 2),
    }
