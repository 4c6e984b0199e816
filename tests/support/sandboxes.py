"""Sandboxes for tests: specs, keys, planted things, processes seen from the host."""

import asyncio
import contextlib
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from runs_domain.ids import AccountId, RunId, SessionId
from runs_domain.sandbox_port import SandboxSpec
from runs_domain.storage.identity import uuid7
from workers.adapters.sandbox_local.programs import Programs

KEY = "recoup_sk_canary0123456789abcdefghijklmnopqrstuv"


async def key() -> str:
    return KEY


def new_spec(name: str | None = None, *, session: UUID | None = None) -> SandboxSpec:
    """A spec of a new run; of the same sandbox if `name` and `session` are given again."""
    session = session or uuid7()
    return SandboxSpec(
        name=name or f"session-{session}",
        session_id=SessionId(session),
        run_id=RunId(uuid7()),
        account_id=AccountId(session),
    )


def new_token() -> str:
    """A word that stands nowhere else."""
    return f"token-{secrets.token_hex(16)}"


def count_in(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def stands_below(folder: Path, name: str) -> bool:
    return any(True for _ in folder.rglob(name))


def start_worker(data_dir: Path, token: str) -> subprocess.Popen[bytes]:
    """`sandbox_worker.py` as a process, to be killed."""
    command = [sys.executable, "-m", "tests.support.sandbox_worker", str(data_dir), token]
    return subprocess.Popen(command)  # noqa: S603 - our own program


def copied(programs: Programs, folder: Path) -> Programs:
    """With bubblewrap's files in `folder`, closed to everybody else."""
    for name in programs.bwrap_files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((programs.bwrap_folder / name).read_bytes())
        target.chmod(0o700)
    return replace(programs, bwrap=folder / programs.bwrap_files[0], bwrap_folder=folder)


async def a_turn_of_the_loop() -> None:
    loop = asyncio.get_running_loop()
    turned = loop.create_future()
    loop.call_soon(turned.set_result, None)
    await turned


def processes_naming(token: str) -> list[int]:
    """Host pids whose command line holds `token`."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if token.encode() in place.read_bytes():
                found.append(int(place.parent.name))
    return found
