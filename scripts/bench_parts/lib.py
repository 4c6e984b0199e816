"""What the benchmarks share: the machine's name, quantiles, CPU time, a lean HTTP client."""

import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workers.stack.stack import Stack

FDATASYNC_TRIES = 50
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def emit(name: str, figures: dict[str, Any]) -> None:
    """One JSON line on standard output."""
    line = {"bench": name, **figures, "machine": machine()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load_1m": round(os.getloadavg()[0], 2),
        "fdatasync_p50_ms": fdatasync_p50_ms(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def fdatasync_p50_ms() -> float:
    with tempfile.NamedTemporaryFile(dir=".") as file:
        took = []
        for _ in range(FDATASYNC_TRIES):
            file.write(b"x" * 4096)
            file.flush()
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begin)
    return round(statistics.median(took) * 1000, 3)


def quantile_ms(seconds: Iterable[float], share: float) -> float:
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 2)


@contextmanager
def stack(workers: int = 1, **settings: str) -> Iterator[dict[str, Any]]:
    """A fresh stack; gives what dev.json says."""
    environ = dict(os.environ) | {f"RUNLEDGER_{name}": value for name, value in settings.items()}
    environ.setdefault("RUNLEDGER_LOG_LEVEL", "WARNING")
    with tempfile.TemporaryDirectory(prefix="rl-bench-") as folder:

        def say(sentence: str) -> None:
            sys.stderr.write(sentence + "\n")

        with Stack(Path(folder), workers=workers, port=0, environ=environ, say=say) as running:
            yield running.details


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of the children it has now."""
    total = 0.0
    for one in (pid, *_children(pid)):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return total


def ended_cpu_seconds(pid: int) -> float:
    """User and system time of the children of a process that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS_PER_SECOND


def _children(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(child) for child in tasks]


class LeanClient:
    """One keep-alive connection. The load it makes must not be what is measured."""

    def __init__(self, base_url: str, api_key: str) -> None:
        url = urlsplit(base_url)
        self._host, self._port = url.hostname or "", url.port or 80
        self._head = f"Host: {url.netloc}\r\nx-api-key: {api_key}\r\n"

    async def open(self) -> "LeanClient":
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        lines = answer.decode("latin-1").split("\r\n")
        lengths = [line for line in lines if line.lower().startswith("content-length:")]
        length = int(lengths[0].partition(":")[2]) if lengths else 0
        return int(lines[0].split()[1]), await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()
