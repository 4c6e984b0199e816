"""The lines between a stack's processes and its servers, to be cut, stalled and blackholed.

Two sides, `api` (with the projector) and `worker`, have a line of their own to each server:
`links.set("worker-redis", "blackhole")`. They run in a process of their own, `link_process`.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import quote

from runs_domain.settings import PREFIX

Mode = Literal["open", "cut", "refuse", "blackhole", "stall", "delay"]
Side = Literal["api", "worker"]
LinkName = Literal["api-redis", "api-postgres", "worker-redis", "worker-postgres"]
LINKS: Final[tuple[LinkName, ...]] = get_args(LinkName)
POSTGRES_SOCKET: Final = ".s.PGSQL.5432"
END_SECONDS: Final = 10.0


class Links:
    """`folder`: a short path of its own. The servers may come and go meanwhile."""

    def __init__(self, folder: Path, *, postgres: Path, redis: Path) -> None:
        self._folder = folder
        arguments = []
        for name in LINKS:
            (folder / name).mkdir(parents=True, mode=0o700)
            upstream = postgres / POSTGRES_SOCKET if name.endswith("postgres") else redis
            arguments.append(f"{name}={self._socket(name)}={upstream}")
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "tests.support.link_process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._expect("ready")

    def set(self, name: LinkName, mode: Mode, milliseconds: int = 0) -> None:
        """Returns when it is so. `milliseconds` is for `delay`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name} {mode} {milliseconds}\n")
        self._process.stdin.flush()
        self._expect("done")

    def heal(self) -> None:
        for name in LINKS:
            self.set(name, "open")

    def through(self, side: Side, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process that goes by this side's lines."""
        database, _, _ = environment[f"{PREFIX}DATABASE_URL"].partition("?host=")
        host = quote(str(self._socket(f"{side}-postgres").parent), safe="")
        redis = quote(str(self._socket(f"{side}-redis")))
        return {
            **environment,
            f"{PREFIX}DATABASE_URL": f"{database}?host={host}",
            f"{PREFIX}REDIS_URL": f"unix://{redis}?db=0",
        }

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(END_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _socket(self, name: str) -> Path:
        return self._folder / name / (POSTGRES_SOCKET if name.endswith("postgres") else "redis")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said == word, f"the links said {said!r}, not {word!r}"
