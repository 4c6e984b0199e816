"""Run this project's tests as an ordinary user, from root: `python -m tests.support.as_nobody …`.

The interpreter, the packages or the project may lie under a folder that only root can enter. In a
mount namespace of this process's own such a folder is replaced by one that shows nothing but them.
Arguments are pytest's.
"""

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

from workers.adapters.sandbox_local.netns_helper import (
    CLONE_NEWNS,
    MS_BIND,
    MS_REC,
    MS_SLAVE,
    check,
    libc,
    mount,
)

USER = "nobody"


def closed_folder_above(path: Path) -> Path | None:
    """The topmost folder on the way to `path` that others cannot pass."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def show(needed: list[Path]) -> None:
    check(libc.unshare(CLONE_NEWNS), "a mount namespace")
    mount("none", "/", None, MS_REC | MS_SLAVE)
    hidden = {path: closed_folder_above(path) for path in needed}
    opened = {path: os.open(path, os.O_PATH) for path, above in hidden.items() if above}
    for folder in sorted({above for above in hidden.values() if above}):
        mount("tmpfs", str(folder), b"tmpfs", 0, b"mode=0755,size=64k")
    for path, descriptor in opened.items():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{descriptor}", str(path), None, MS_BIND | MS_REC)


def main(arguments: list[str]) -> int:
    os.umask(0o022)
    project = Path.cwd()
    show([project, Path(sys.prefix), Path(sys.base_prefix)])
    os.chdir(project)
    account = pwd.getpwnam(USER)
    with tempfile.TemporaryDirectory(prefix="runledger-nobody-") as scratch:
        os.chown(scratch, account.pw_uid, account.pw_gid)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(  # noqa: S603 - our own tests
            command,
            check=False,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            env={
                "PATH": os.environ["PATH"],
                "HOME": scratch,
                "TMPDIR": scratch,
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
