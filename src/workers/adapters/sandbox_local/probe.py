"""One real command at worker start, so that a broken host is found before a run is."""

import os
from pathlib import Path
from typing import Final

from runs_domain.errors import SandboxError
from runs_domain.events import Struct
from runs_domain.ids import AccountId, RunId, SessionId
from runs_domain.sandbox_port import SandboxSpec
from runs_domain.storage.identity import uuid7
from workers.adapters.sandbox_local import seccomp
from workers.adapters.sandbox_local.provider import LocalSandboxProvider
from workers.adapters.sandbox_local.workspace import UID_COUNT, UID_FIRST

TIMEOUT_SECONDS: Final = 30.0
_SCRIPT: Final = "whoami && touch probe && ! touch /usr/probe 2>/dev/null"


class Verdict(Struct, frozen=True):
    ok: bool
    text: str
    """A sentence; if not ok, with the remedy."""
    notes: tuple[str, ...] = ()
    """What is weaker here than it could be."""


async def probe(data_dir: Path) -> Verdict:
    """Make a sandbox, run a command in it, write a file, remove it. Never raises SandboxError."""
    nobody = uuid7()
    name = f"probe-{nobody}"
    spec = SandboxSpec(
        name=name,
        session_id=SessionId(nobody),
        run_id=RunId(nobody),
        account_id=AccountId(nobody),
    )
    try:
        provider = LocalSandboxProvider(data_dir, api_base_url="")
    except SandboxError as error:
        return Verdict(ok=False, text=str(error))
    try:
        sandbox, _ = await provider.open(spec, key=_no_key)
        try:
            result = await sandbox.exec(_SCRIPT, timeout_seconds=TIMEOUT_SECONDS)
            await sandbox.write("probe", b"")
        finally:
            await sandbox.destroy()
    except (SandboxError, OSError) as error:
        return Verdict(ok=False, text=str(error))
    finally:
        await provider.close()
    if result.exit_code != 0 or result.stdout != "agent\n":
        return Verdict(ok=False, text=f"the probe command failed: {result.stderr.strip()[-300:]}")
    return Verdict(ok=True, text=_who(), notes=tuple(_notes()))


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
