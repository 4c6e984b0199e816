"""One real command at worker start, so that a broken host is found before a run is."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from runs_domain.errors import SandboxError, SandboxUnavailable
from runs_domain.events import Struct
from runs_domain.ids import AccountId, RunId, SessionId
from runs_domain.sandbox_port import ExecResult, SandboxSpec
from runs_domain.storage.identity import uuid7
from workers.adapters.sandbox_local import seccomp
from workers.adapters.sandbox_local.provider import LocalSandboxProvider
from workers.adapters.sandbox_local.workspace import UID_COUNT, UID_FIRST

NAME: Final = "probe"
TIMEOUT_SECONDS: Final = 30.0
TURN_SECONDS_MAX: Final = 60.0
LOOK_SECONDS: Final = 0.02
_SCRIPT: Final = "whoami && touch probe && ! touch /usr/probe 2>/dev/null"


class Verdict(Struct, frozen=True):
    ok: bool
    text: str
    """A sentence; if not ok, with the remedy."""
    notes: tuple[str, ...] = ()
    """What is weaker here than it could be."""


async def probe(data_dir: Path) -> Verdict:
    """Make a sandbox, run a command in it, write a file, remove it. Never raises SandboxError.

    Workers that start at once take turns; what a killed one left is removed first.
    """
    if (refusal := _missing_uids()) is not None:
        return Verdict(ok=False, text=refusal)
    try:
        provider = LocalSandboxProvider(data_dir, api_base_url="")
        try:
            async with _turn(provider.root):
                result = await _tried(provider)
        finally:
            await provider.close()
    except SandboxError as error:
        return Verdict(ok=False, text=str(error))
    except OSError as error:
        return Verdict(ok=False, text=f"{error.strerror}: {error.filename or data_dir}")
    if result.exit_code != 0 or result.stdout != "agent\n":
        return Verdict(ok=False, text=f"the probe command failed: {result.stderr.strip()[-300:]}")
    return Verdict(ok=True, text=_who(), notes=tuple(_notes()))


async def _tried(provider: LocalSandboxProvider) -> ExecResult:
    nobody = uuid7()
    spec = SandboxSpec(
        name=NAME,
        session_id=SessionId(nobody),
        run_id=RunId(nobody),
        account_id=AccountId(nobody),
    )
    if (left := await provider.find(NAME)) is not None:
        await left.destroy()
    sandbox, _ = await provider.open(spec, key=_no_key)
    try:
        result = await sandbox.exec(_SCRIPT, timeout_seconds=TIMEOUT_SECONDS)
        await sandbox.write("probe", b"")
    except BaseException:
        with contextlib.suppress(SandboxError):  # the first error is the one that tells
            await sandbox.destroy()
        raise
    await sandbox.destroy()
    return result


@contextlib.asynccontextmanager
async def _turn(root: Path) -> AsyncIterator[None]:
    """The one probe of this folder, on any host that shares it. Raises SandboxUnavailable."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        await _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


async def _lock(descriptor: int) -> None:
    try:
        async with asyncio.timeout(TURN_SECONDS_MAX):
            while not _is_locked(descriptor):  # noqa: ASYNC110 - a file's lock tells nobody
                await asyncio.sleep(LOOK_SECONDS)  # noqa: TID251 - as above
    except TimeoutError as error:
        raise SandboxUnavailable("another worker's probe in this folder does not end") from error


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _missing_uids() -> str | None:
    """Root of a user namespace can only become a user that the namespace knows."""
    if os.geteuid() != 0:
        return None
    for kind in ("uid", "gid"):
        lines = Path(f"/proc/self/{kind}_map").read_text("ascii").splitlines()
        spans = [(int(first), int(count)) for first, _, count in map(str.split, lines)]
        last = UID_FIRST + UID_COUNT - 1
        if not any(first <= UID_FIRST and last < first + count for first, count in spans):
            return (
                f"this worker is root where {kind}s {UID_FIRST} to {last} do "
                "not exist (a rootless container, or user-namespace remapping), and commands run "
                "as one of them. Start the worker as an ordinary user, map those ids, or set "
                "RUNLEDGER_SANDBOX=none for runs without tools."
            )
    return None


async def _no_key() -> str:
    raise SandboxError("a probe has no key")


def _who() -> str:
    if os.geteuid() != 0:
        return f"bubblewrap works; commands run as this user ({os.geteuid()})"
    last = UID_FIRST + UID_COUNT - 1
    return f"bubblewrap works; commands run as unprivileged uids {UID_FIRST} to {last}"


def _notes() -> list[str]:
    notes = ["memory and CPU limits are per process: no delegated cgroup is used"]
    if seccomp.program() is None:
        notes.append("no system-call filter: none is written for this kind of machine")
    return notes
