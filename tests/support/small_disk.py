"""A PostgreSQL with a small disk of its own, on which a tablespace can lie: a tmpfs that only its
processes see, in a user and mount namespace, so that it takes no root.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers import make_template, temporary_servers
from workers.stack.account import unprivileged
from workers.stack.programs import PostgresPrograms
from workers.stack.servers import Servers

OPEN = 0o755
WRAPPER = """#!/bin/sh
# The same process becomes the server: its owner watches it by its id.
export PATH=/usr/bin:/bin:/usr/sbin:/sbin
exec unshare --user --map-current-user --keep-caps --mount -- /bin/sh -c '
    mount -t tmpfs -o size={megabytes}m,mode=0700 tmpfs {disk} && exec {postgres} "$@"' sh "$@"
"""


@contextmanager
def servers_with_small_disk(megabytes: int) -> Iterator[tuple[Servers, Path]]:
    """Started, with a template; the path of the disk as the server sees it, empty."""
    place = Path(tempfile.mkdtemp(prefix="rl-disk-"))
    place.chmod(OPEN)
    try:
        disk = place / "disk"
        disk.mkdir()
        with temporary_servers() as servers:
            servers.start()  # makes its data, with the programs as they are
            servers.stop()
            _own(disk)
            servers.postgres._programs = _wrapped(servers, place, disk, megabytes)
            servers.start()
            make_template(servers)
            yield servers, disk
    finally:
        shutil.rmtree(place)


def _wrapped(servers: Servers, place: Path, disk: Path, megabytes: int) -> PostgresPrograms:
    own = servers.postgres._programs
    (place / "bin").mkdir()
    wrapper = place / "bin" / "postgres"
    wrapper.write_text(
        WRAPPER.format(megabytes=megabytes, disk=disk, postgres=own.bin / "postgres"), "utf-8"
    )
    for path in (wrapper, wrapper.parent):
        path.chmod(OPEN)
    return PostgresPrograms(wrapper.parent, own.major)


def _own(disk: Path) -> None:
    account = unprivileged(disk)
    if account is not None:
        os.chown(disk, account.uid, account.gid)
    subprocess.run(["/usr/bin/unshare", "--version"], check=True, capture_output=True)
