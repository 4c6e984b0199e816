"""What a data folder holds of an account: exports of its history, sandboxes of its runs."""

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
from bundle_check.bundle import OURS, BadBundleError, account_of

from runs_domain.errors import SandboxError
from runs_domain.ids import AccountId
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.programs import find_programs
from workers.adapters.sandbox_local.workspace import MARKER, Marker, Workspace

EXPORTS = "exports"
SANDBOXES = "sandboxes"


class Cleared:
    """How many went, and a sentence for each that is, or may be, the account's and stays."""

    def __init__(self) -> None:
        self.count = 0
        self.left: list[str] = []


def clear_exports(data_dir: Path, account: AccountId) -> Cleared:
    """Remove every bundle of the account, finished or not, anywhere below `exports`."""
    cleared = Cleared()
    for place in _folders(data_dir / EXPORTS, cleared):
        try:
            if not _is_of(place, account, cleared):
                continue
            shutil.rmtree(place)
            cleared.count += 1
        except FileNotFoundError:
            continue  # whoever makes or removes it was faster
        except OSError as error:
            cleared.left.append(f"{place}: {error.strerror}")
    return cleared


def _folders(root: Path, cleared: Cleared) -> Iterator[Path]:
    """`root` and all below it, without following links."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            cleared.left.append(f"{error.filename}: {error.strerror}")

    if root.is_symlink():
        cleared.left.append(f"{root}: a link, which is not followed")
        return
    for place, folders, _ in os.walk(root, onerror=failed):
        for name in folders:
            if (Path(place) / name).is_symlink():
                cleared.left.append(f"{Path(place) / name}: a link, which is not followed")
        yield Path(place)


def _is_of(place: Path, account: AccountId, cleared: Cleared) -> bool:
    try:
        whose = account_of(place)
    except BadBundleError as error:
        cleared.left.append(f"{place}: it may be an export of this account: {error}")
        return False
    if whose is None and any(OURS.fullmatch(one.name) for one in place.iterdir()):
        cleared.left.append(f"{place}: it may be an export of this account: it does not say whose")
    return whose == account


async def clear_sandboxes(
    data_dir: Path, account: AccountId, names: Collection[str], in_use: Collection[str]
) -> Cleared:
    """Remove those of `names`, and all that say they are the account's, but those `in_use`."""
    cleared = Cleared()
    for place in _standing(data_dir, cleared):
        if not (place.name in names or _marked(place, account)):
            continue
        if place.name in in_use:
            cleared.left.append(f"{place}: its run has not ended")
            continue
        try:
            await Workspace(place.parent, place.name).remove(find_programs(), Limits())
            cleared.count += 1
        except (SandboxError, OSError, ValueError) as error:
            cleared.left.append(f"{place}: {error}")
    return cleared


def _standing(data_dir: Path, cleared: Cleared) -> list[Path]:
    root = data_dir.absolute() / SANDBOXES
    try:
        return sorted(root.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        cleared.left.append(f"{root}: {error.strerror}")
        return []


def _marked(place: Path, account: AccountId) -> bool:
    try:
        marker = msgspec.json.decode((place / MARKER).read_bytes(), type=Marker)
    except (OSError, msgspec.MsgspecError):
        return False
    return marker.account_id == account
