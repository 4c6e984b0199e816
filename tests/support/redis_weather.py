"""What can happen to a Redis: it is full, a replica, replaced by an empty one.

And to any server: it hangs.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from workers.stack.child import Child
from workers.stack.valkey import Valkey

FULL_BYTES = "1"
NOBODY = ("127.0.0.1", "1")
"""A master that does not answer."""


@contextmanager
def full(url: str) -> Iterator[None]:
    """Every command that could need memory is refused (OOM)."""
    with _asking(url) as server:
        server.config_set("maxmemory-policy", "noeviction")
        server.config_set("maxmemory", FULL_BYTES)
        yield
        server.config_set("maxmemory", "0")


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """Every write is refused (READONLY): after a failover, this is not the master any more."""
    with _asking(url) as server:
        server.replicaof(*NOBODY)
        yield
        server.replicaof("NO", "ONE")


def replace_by_an_empty_one(valkey: Valkey) -> None:
    """The server dies, and the same address leads to another one that knows nothing."""
    folder = Path(_config(valkey.url(), "dir"))
    valkey.stop(at_once=True)
    for kept in folder.iterdir():
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    valkey.start()


@contextmanager
def frozen(server: Child) -> Iterator[None]:
    """The server and all its own processes stand still: it neither answers nor refuses."""
    tree = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text("ascii").split()
    pids = [server.pid, *map(int, tree)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):  # one that had ended: its parent goes on first
                os.kill(pid, signal.SIGCONT)


def _config(url: str, name: str) -> str:
    with _asking(url) as server:
        return str(server.config_get(name)[name])


@contextmanager
def _asking(url: str) -> Iterator[Any]:
    with redis.Redis.from_url(url, socket_timeout=5.0, decode_responses=True) as server:
        yield server
