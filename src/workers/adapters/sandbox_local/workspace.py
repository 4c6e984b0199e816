"""A sandbox's folder on the host: made, marked, found, owned by its uid, removed.

<data_dir>/sandboxes/<name>/
    made.json     written last: with it the sandbox exists, without it it is half made
    etc/          the made-up passwd, group and hosts
    home/         the agent's home, kept between commands
    workspace/    what the sandbox sees as /workspace
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Final

import msgspec

from runs_domain.errors import SandboxError, SandboxUnavailable
from runs_domain.events import Struct
from runs_domain.ids import AccountId, SessionId
from runs_domain.sandbox_port import SandboxSpec
from workers.adapters.sandbox_local import bwrap
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.programs import Programs
from workers.adapters.sandbox_local.spawn import output_of, spawn

UID_FIRST: Final = 1_900_000_000
UID_COUNT: Final = 1 << 24
"""A root worker's commands run as a uid of this range, one for each sandbox, the same on every
host. It lies above what system tools hand out to users, containers and services."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MARKER: Final = "made.json"


class Marker(Struct, frozen=True):
    session_id: SessionId
    account_id: AccountId


class Workspace:
    def __init__(self, root: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a sandbox name: {name!r}")
        self.name = name
        self.base = root / name
        self.files = self.base / "workspace"
        self.owner = _uid_of(name) if os.geteuid() == 0 else None
        """Whom its files belong to and its commands run as, if not the worker itself."""

    def stands(self) -> bool:
        """Whether anything is there, half made too. Raises SandboxUnavailable on doubt."""
        try:
            self.base.lstat()
        except FileNotFoundError:
            if not self.base.parent.is_dir():
                raise SandboxUnavailable("the data directory is not there") from None
            return False
        except OSError as error:
            raise SandboxUnavailable(f"the data directory: {error.strerror}") from error
        return True

    def is_made(self) -> bool:
        return self.stands() and (self.base / MARKER).exists()

    def make(self, spec: SandboxSpec) -> bool:
        """Make what is missing; False if all was there. Raises SandboxError for a stranger's."""
        marker = Marker(session_id=spec.session_id, account_id=spec.account_id)
        if self.is_made():
            found = msgspec.json.decode((self.base / MARKER).read_bytes(), type=Marker)
            if found != marker:
                raise SandboxError(f"the sandbox {self.name} belongs to another session")
            return False
        try:
            self._make(marker)
        except OSError as error:
            raise SandboxUnavailable(f"making the workspace: {error.strerror}") from error
        return True

    def _make(self, marker: Marker) -> None:
        self.base.mkdir(exist_ok=True)
        self.base.chmod(0o711)  # by chmod: whatever umask the worker was started with
        etc = self.base / "etc"
        etc.mkdir(exist_ok=True)
        etc.chmod(0o755)
        for name, text in bwrap.ETC.items():
            (etc / name).write_text(text, "ascii")
            (etc / name).chmod(0o644)
        for folder in (self.files, self.base / "home"):
            folder.mkdir(mode=0o700, exist_ok=True)
            if self.owner is not None:
                os.chown(folder, self.owner, self.owner)
        unfinished = self.base / f"{MARKER}.new"
        unfinished.write_bytes(msgspec.json.encode(marker))
        unfinished.rename(self.base / MARKER)

    async def remove(self, programs: Programs, limits: Limits) -> None:
        """All of it, however deep and whatever modes it has. Raises SandboxUnavailable."""
        if not self.stands():
            return
        (self.base / MARKER).unlink(missing_ok=True)  # from here on it counts as half made
        for prefix in dict.fromkeys((as_owner(programs), ())):  # plainly where that is refused
            remover = await spawn(*prefix, "rm", "-rf", "--one-file-system", "--", str(self.base))
            try:
                await output_of(remover, timeout_seconds=limits.remove_seconds)
            except TimeoutError as error:
                raise SandboxUnavailable("removing the workspace took too long") from error
            if not self.base.exists():
                return
        raise SandboxUnavailable(f"the workspace {self.base} could not be removed")


def as_owner(programs: Programs) -> tuple[str, ...]:
    """The start of a command line that may enter folders which a command closed to itself.

    Root may anyway; an ordinary user can be root over its own files in a user namespace.
    """
    return () if os.geteuid() == 0 else (str(programs.unshare), "--user", "--map-root-user", "--")


def _uid_of(name: str) -> int:
    digest = hashlib.sha256(name.encode("ascii")).digest()
    return UID_FIRST + int.from_bytes(digest[:4], "big") % UID_COUNT
