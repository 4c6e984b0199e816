"""The port to a place where model-issued commands run. Nine methods; all else is built on them.

A handle is never carried between steps: `open` by name is get-or-create and idempotent, so that
a worker that takes a run over finds what the last one made. Gone, unreachable and unknown are
three different answers (incident I-55): `SandboxNotFound`, `SandboxUnavailable`, and never a guess.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Literal, Protocol

from runs_domain.events import Struct
from runs_domain.ids import AccountId, RunId, SessionId

KilledFor = Literal["output_limit", "disk_quota"]


class SandboxSpec(Struct, frozen=True):
    name: str
    session_id: SessionId
    run_id: RunId
    account_id: AccountId
    must_exist: bool = False
    """The run has worked in it already: `open` raises SandboxNotFound rather than make it anew."""


class SandboxState(Struct, frozen=True):
    """Small, JSON, safe to store. `expires_at` None = the provider sets no deadline."""

    provider: str
    name: str
    id: str
    expires_at: datetime | None = None


class ExecResult(Struct, frozen=True):
    exit_code: int | None
    """None when the command did not end by itself."""
    stdout: str
    stderr: str
    truncated: bool = False
    timed_out: bool = False
    cancelled: bool = False
    killed_for: KilledFor | None = None


class FileInfo(Struct, frozen=True):
    path: str
    kind: Literal["file", "directory", "link", "other"]
    size_bytes: int
    modified_at: datetime


class Capabilities(Struct, frozen=True):
    """What an adapter can do; asking for more raises `SandboxUnavailable` with the word."""

    exec: bool = True
    streaming: bool = False
    detached: bool = False
    hibernate: bool = False
    ports: bool = False
    egress_policy: bool = False


class Sandbox(Protocol):
    """One open sandbox."""

    state: SandboxState
    working_directory: str
    """As commands inside see it."""

    async def exec(
        self,
        script: str,
        *,
        timeout_seconds: float,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        on_output: Callable[[str, bytes], None] | None = None,
    ) -> ExecResult:
        """Run a bash script to its end. `on_output` gets ("stdout"|"stderr", piece) as it comes.

        Past the deadline everything it started is killed and what it printed is kept. Cancelling
        the awaiting task kills it too.
        """
        ...

    async def spawn(
        self, script: str, *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Start a detached command that the run owns; returns its process id for `kill`."""
        ...

    async def kill(self, process_id: str) -> None: ...

    async def read(self, path: str, *, max_bytes: int) -> bytes:
        """A file's first `max_bytes`. Relative paths are below the working directory.

        File methods raise OSError's own kinds (FileNotFoundError, IsADirectoryError,
        PermissionError for a way out …) about `path`, beside the sandbox errors.
        """
        ...

    async def write(self, path: str, content: bytes) -> None:
        """Make the folders above, then replace the file whole."""
        ...

    async def list(self, path: str) -> tuple[FileInfo, ...]:
        """A folder's entries, or the one entry of a file."""
        ...

    async def extend(self, until: datetime) -> None: ...

    async def hibernate(self) -> SandboxState: ...

    async def detach(self) -> None:
        """Let go of what this process holds (processes, descriptors); the sandbox stays."""
        ...

    async def destroy(self) -> None:
        """End every process and give back all it held. Destroying twice is no error."""
        ...


class SandboxProvider(Protocol):
    name: str
    capabilities: Capabilities

    async def open(
        self, spec: SandboxSpec, *, key: Callable[[], Awaitable[str]]
    ) -> tuple[Sandbox, bool]:
        """Get or create by name; the flag says "created".

        `key` gives the run's API key to whatever sits outside the sandbox and adds it to the
        run's calls (a broker, an egress policy). The key never enters the sandbox.
        """
        ...

    async def find(self, name: str) -> Sandbox | None:
        """What stands under the name, without making it. None = known not to exist."""
        ...

    async def close(self) -> None:
        """Give back what this process holds; sandboxes themselves stay."""
        ...
