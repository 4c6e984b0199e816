"""The sandbox's files, read and written from the host without leaving the workspace.

Every path is opened by openat2 below the workspace, as the sandbox's own uid. Names in errors are
as the sandbox sees them. FIFOs and devices are refused rather than waited for.
"""

import contextlib
import errno
import os
import posixpath
import secrets
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal, NoReturn

from runs_domain.errors import SandboxLimitExceeded, SandboxNotFound
from runs_domain.sandbox_port import FileInfo
from workers.adapters.sandbox_local.bwrap import WORKING_DIRECTORY
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.openat2 import act_as, open_beneath
from workers.adapters.sandbox_local.workspace import Workspace

_NEW_FILE_MODE: Final = 0o644
_NEW_FOLDER_MODE: Final = 0o755
_PIECE_BYTES: Final = 1024 * 1024


class Files:
    """Blocking; call it in a thread. Raises FileNotFoundError, IsADirectoryError, … of OSError."""

    def __init__(self, workspace: Workspace, limits: Limits) -> None:
        self._workspace = workspace
        self._limits = limits

    def read(self, path: str, max_bytes: int) -> bytes:
        with self._entered(path) as (folder, inner):
            descriptor = open_beneath(folder, inner, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
                _require_file(os.fstat(descriptor), path)
                return _read_up_to(file.fileno(), max_bytes)

    def write(self, path: str, content: bytes) -> None:
        if len(content) > self._limits.file_bytes_max:
            raise SandboxLimitExceeded(f"a file holds at most {self._limits.file_bytes_max} bytes")
        with self._entered(path) as (top, inner):
            folder = _make_folders(top, posixpath.dirname(inner))
            try:
                _replace(folder, posixpath.basename(inner), path, content)
            finally:
                os.close(folder)

    def list(self, path: str) -> tuple[FileInfo, ...]:
        with self._entered(path) as (top, inner):
            found = open_beneath(top, inner, os.O_PATH)
            try:
                info = os.fstat(found)
                if not stat.S_ISDIR(info.st_mode):
                    return (_info(path, info),)
                folder = open_beneath(found, ".", os.O_RDONLY | os.O_DIRECTORY)
            finally:
                os.close(found)
            try:
                return self._entries(path, folder)
            finally:
                os.close(folder)

    def _entries(self, path: str, folder: int) -> tuple[FileInfo, ...]:
        found: list[FileInfo] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(found) >= self._limits.list_entries_max:
                    most = self._limits.list_entries_max
                    raise SandboxLimitExceeded(f"{path} has more than {most} entries")
                with contextlib.suppress(FileNotFoundError):  # gone since
                    info = entry.stat(follow_symlinks=False)
                    found.append(_info(posixpath.join(path, entry.name), info))
        return tuple(sorted(found, key=lambda entry: entry.path))

    @contextlib.contextmanager
    def _entered(self, path: str) -> Iterator[tuple[int, str]]:
        """The workspace's descriptor and `path` below it, with this thread acting as its user."""
        inner = _inner(path)
        try:
            top = os.open(self._workspace.files, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise SandboxNotFound(f"the sandbox {self._workspace.name} is gone") from error
        before = act_as(self._workspace.owner)
        try:
            yield top, inner
        except OSError as error:
            _explain(error, path)
        finally:
            act_as(before)
            os.close(top)


def _inner(path: str) -> str:
    """`path` relative to the workspace."""
    if "\0" in path:
        raise ValueError("a path cannot contain U+0000")
    if not path.startswith("/"):
        return path or "."
    inside = path.removeprefix(WORKING_DIRECTORY)
    if inside == path or not (inside == "" or inside.startswith("/")):
        raise PermissionError(
            errno.EACCES, f"not below {WORKING_DIRECTORY}, which is all that file tools see", path
        )
    return inside.strip("/") or "."


def _explain(error: OSError, path: str) -> NoReturn:
    """The same kind of error, about the path as the caller gave it."""
    match error.errno:
        case errno.EXDEV:
            raise PermissionError(
                errno.EACCES, f"it leads out of {WORKING_DIRECTORY}", path
            ) from error
        case errno.ENOSPC | errno.EDQUOT:
            raise SandboxLimitExceeded("no space left in the workspace") from error
        case None:
            raise error
        case code:
            raise OSError(code, error.strerror, path) from error


def _require_file(info: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory", path)
    if not stat.S_ISREG(info.st_mode):
        raise PermissionError(errno.EACCES, "it is not a regular file", path)


def _read_up_to(descriptor: int, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    while max_bytes > 0 and (piece := os.read(descriptor, min(max_bytes, _PIECE_BYTES))):
        pieces.append(piece)
        max_bytes -= len(piece)
    return b"".join(pieces)


def _make_folders(top: int, path: str) -> int:
    """A descriptor of the folder `path`, made with those above it if need be."""
    folder = open_beneath(top, ".", os.O_PATH | os.O_DIRECTORY)
    seen = ""
    for part in filter(None, path.split("/")):
        seen = posixpath.join(seen, part)
        try:
            # From the top each time: a link or ".." may lead anywhere inside, and not out.
            inner = open_beneath(top, seen, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            os.mkdir(part, _NEW_FOLDER_MODE, dir_fd=folder)
            inner = open_beneath(top, seen, os.O_PATH | os.O_DIRECTORY)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _replace(folder: int, name: str, path: str, content: bytes) -> None:
    """Whole or not at all: written beside, then renamed. A link is refused, not replaced."""
    if name in {"", ".", ".."}:
        raise IsADirectoryError(errno.EISDIR, "it is a directory", path)
    mode = _NEW_FILE_MODE
    with contextlib.suppress(FileNotFoundError):
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            raise PermissionError(errno.EACCES, "it is a link; write to what it points to", path)
        _require_file(info, path)
        mode = stat.S_IMODE(info.st_mode) & 0o777
    unfinished = f".runledger-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(unfinished, flags, 0o600, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
            os.fchmod(file.fileno(), mode)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(unfinished, dir_fd=folder)
        raise


def _info(path: str, info: os.stat_result) -> FileInfo:
    return FileInfo(
        path=path,
        kind=_kind(info.st_mode),
        size_bytes=info.st_size,
        modified_at=datetime.fromtimestamp(info.st_mtime, UTC),
    )


def _kind(mode: int) -> Literal["file", "directory", "link", "other"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"
