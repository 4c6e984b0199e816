"""The namespaces of one run, made with its first command and held by the worker as descriptors.

They vanish with the last descriptor, so a worker that dies leaves nothing behind.
"""

import os
import socket
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runs_domain.errors import SandboxUnavailable
from workers.adapters.sandbox_local import netns_helper
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.programs import Programs
from workers.adapters.sandbox_local.spawn import output_of, spawn

_DESCRIPTORS_MAX: Final = 4
_REMEDY: Final = (
    "This machine does not let the worker make namespaces ({reason}). On the host, set "
    "kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0 and (Ubuntu) "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, use the security_opt lines "
    "of compose.yaml. Or set RUNLEDGER_SANDBOX=none for runs without tools."
)


@dataclass(frozen=True)
class Namespaces:
    """Descriptors; `mount` only where root made a view for an unprivileged uid."""

    user: int
    network: int
    mount: int | None
    owner: int | None
    """The uid that commands run as, if it is not the worker's own."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        found = (self.user, self.network, self.mount)
        return tuple(descriptor for descriptor in found if descriptor is not None)

    def entering(self, nsenter: Path) -> tuple[str, ...]:
        """The start of a command line that runs inside, as the owner and with no capability."""
        inside = (
            str(nsenter),
            f"--user=/proc/self/fd/{self.user}",
            f"--net=/proc/self/fd/{self.network}",
        )
        if self.mount is None:
            return (*inside, "--preserve-credentials", "--")
        return (
            *inside,
            f"--mount=/proc/self/fd/{self.mount}",
            *("--setgid", str(self.owner), "--setuid", str(self.owner), "--"),
        )

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


async def make_namespaces(
    base: Path, owner: int | None, programs: Programs, limits: Limits
) -> tuple[Namespaces, socket.socket]:
    """The namespaces and a listener on 127.0.0.1:80 in them. Raises SandboxUnavailable."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = [str(theirs.fileno())]
        if owner is not None:
            arguments += [str(owner), str(base), str(programs.bwrap_folder), *programs.bwrap_files]
        # -I and -S: nothing of the worker's environment, no site packages, a quick start.
        helper = await spawn(
            *(sys.executable, "-I", "-S", str(Path(netns_helper.__file__)), *arguments),
            stderr=PIPE,
            pass_fds=(theirs.fileno(),),
        )
        try:
            _, complaint = await output_of(helper, timeout_seconds=limits.setup_seconds)
        except TimeoutError as error:
            raise SandboxUnavailable("making the run's namespaces took too long") from error
        if helper.returncode != 0:
            reason = complaint.decode("utf-8", "replace").strip()[-300:]
            raise SandboxUnavailable(_REMEDY.format(reason=reason))
        ours.setblocking(False)  # the helper has ended: what it sent is here
        _, descriptors, _, _ = socket.recv_fds(ours, 1, _DESCRIPTORS_MAX)
    listener = socket.socket(fileno=descriptors[0])
    mount = descriptors[3] if owner is not None else None
    return Namespaces(descriptors[1], descriptors[2], mount, owner), listener
