"""The provider `none`: runs without tools. Nothing is made, so there is nothing to find or lose."""

# The port names the arguments and this adapter needs none of them.
# ruff: noqa: ARG002

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final

from runs_domain.errors import SandboxUnavailable
from runs_domain.sandbox_port import (
    Capabilities,
    ExecResult,
    FileInfo,
    SandboxSpec,
    SandboxState,
)

PROVIDER: Final = "none"


class NoSandbox:
    def __init__(self, name: str) -> None:
        self.state = SandboxState(provider=PROVIDER, name=name, id=name)
        self.working_directory = "/"

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
        raise _refusal("exec")

    async def spawn(
        self, script: str, *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        raise _refusal("detached")

    async def kill(self, process_id: str) -> None:
        """No process was ever started."""

    async def read(self, path: str, *, max_bytes: int) -> bytes:
        raise _refusal("read")

    async def write(self, path: str, content: bytes) -> None:
        raise _refusal("write")

    async def list(self, path: str) -> tuple[FileInfo, ...]:
        raise _refusal("list")

    async def extend(self, until: datetime) -> None:
        """It has no deadline."""

    async def hibernate(self) -> SandboxState:
        raise _refusal("hibernate")

    async def detach(self) -> None:
        """This process holds nothing."""

    async def destroy(self) -> None:
        """There is nothing to give back."""


class NoSandboxProvider:
    def __init__(self) -> None:
        self.name = PROVIDER
        self.capabilities = Capabilities(exec=False)

    async def open(
        self, spec: SandboxSpec, *, key: Callable[[], Awaitable[str]]
    ) -> tuple[NoSandbox, bool]:
        return NoSandbox(spec.name), False

    async def find(self, name: str) -> None:
        return None

    async def close(self) -> None:
        pass


def _refusal(word: str) -> SandboxUnavailable:
    return SandboxUnavailable(f"this worker has no sandboxes (RUNLEDGER_SANDBOX=none): {word}")
