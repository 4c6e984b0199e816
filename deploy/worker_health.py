"""A container's health check: exit 0 if the worker in it has told Redis lately that it lives."""

import os
import socket
import sys

import redis

from runs_domain.storage import redis_names as names

TIMEOUT_SECONDS = 2.0


def is_alive(client: "redis.Redis[bytes]") -> bool:
    """A worker is named by its host first; its line is gone 20 s after it stopped ticking."""
    here = f"{socket.gethostname()}:"
    consumers = [
        one["name"].decode() for one in client.xinfo_consumers(names.JOB_STREAM, names.GROUP)
    ]
    lines = [names.health(name) for name in consumers if name.startswith(here)]
    return bool(lines and client.exists(*lines))


try:
    with redis.Redis.from_url(
        os.environ["RUNLEDGER_REDIS_URL"],
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
    ) as connected:
        sys.exit(not is_alive(connected))
except redis.RedisError as error:  # its text may quote the URL
    sys.exit(type(error).__name__)
