"""What a worker process is called."""

import os
import secrets
import socket


def new_worker_id() -> str:
    """`<host>:<pid>:<8 hex digits>`: a name that no other process has, had or will have."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
