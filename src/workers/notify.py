"""Tell whoever started this process that it is ready: systemd's protocol (NOTIFY_SOCKET)."""

import socket
from collections.abc import Mapping
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"
READY: Final = b"READY=1"


def ready(environ: Mapping[str, str]) -> None:
    """Once, when the process takes work. Nothing happens where nobody asked for it."""
    address = environ.get(VARIABLE, "")
    if not address:
        return
    if address.startswith("@"):  # systemd's way to write the abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(READY, address)
