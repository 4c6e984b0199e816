"""One open sandbox of one run: its commands, its detached processes, its files."""

import asyncio
import contextlib
import itertools
import posixpath
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final, TypeVar

from runs_domain.errors import SandboxLimitExceeded, SandboxNotFound, SandboxUnavailable
from runs_domain.sandbox_port import ExecResult, FileInfo, SandboxState
from workers.adapters.sandbox_local.bwrap import WORKING_DIRECTORY
from workers.adapters.sandbox_local.execute import OnOutput, execute
from workers.adapters.sandbox_local.files import Files
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.network import RunNetwork
from workers.adapters.sandbox_local.process import Command, Place, Running, start
from workers.adapters.sandbox_local.programs import Programs
from workers.adapters.sandbox_local.quota import QuotaWatch
from workers.adapters.sandbox_local.spawn import KILL_SECONDS
from workers.adapters.sandbox_local.workspace import Workspace

T = TypeVar("T")

PROVIDER: Final = "local"
NOTHING: Final[Mapping[str, str]] = {}


class LocalSandbox:
    def __init__(
        self,
        workspace: Workspace,
        network: RunNetwork,
        programs: Programs,
        limits: Limits,
        *,
        destroy: Callable[[Workspace], Awaitable[None]],
        forget: Callable[["LocalSandbox"], None],
    ) -> None:
        self.state = SandboxState(provider=PROVIDER, name=workspace.name, id=workspace.name)
        self.working_directory = WORKING_DIRECTORY
        self.network = network
        self._workspace = workspace
        self._limits = limits
        self._destroy = destroy
        self._forget = forget
        self._files = Files(workspace, limits)
        self._quota = QuotaWatch(workspace.base, programs, limits, self._breached)
        self._commands = 0
        self._running: set[Running] = set()
        self._spawned: dict[str, tuple[Running, asyncio.Task[None]]] = {}
        self._numbers = itertools.count(1)
        self.closed = False

    async def exec(
        self,
        script: str,
        *,
        timeout_seconds: float,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        on_output: OnOutput | None = None,
    ) -> ExecResult:
        if len(stdin) > self._limits.stdin_bytes_max:
            raise SandboxLimitExceeded(f"stdin is over {self._limits.stdin_bytes_max} bytes")
        command = self._command(script, cwd, env)
        async with self._room() as place:
            running: Running | None = None

            def started(command: Running) -> None:
                nonlocal running
                running = command
                self._hold(command)

            try:
                return await execute(
                    place,
                    command,
                    stdin=stdin,
                    timeout_seconds=timeout_seconds,
                    on_output=on_output,
                    started=started,
                )
            finally:
                if running is not None:
                    self._running.discard(running)

    async def spawn(
        self, script: str, *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Its output goes nowhere: a script that wants a log redirects it into the workspace."""
        command = self._command(script, cwd, env)
        async with contextlib.AsyncExitStack() as stack:
            place = await stack.enter_async_context(self._room())
            running = await start(
                place, command, stdin=asyncio.subprocess.DEVNULL, output=asyncio.subprocess.DEVNULL
            )
            self._hold(running)
            process_id = f"process-{next(self._numbers)}"
            tending = asyncio.ensure_future(self._tend(process_id, running, stack.pop_all()))
            self._spawned[process_id] = (running, tending)
        return process_id

    async def _tend(
        self, process_id: str, running: Running, room: contextlib.AsyncExitStack
    ) -> None:
        """A detached command's place is taken until it ends."""
        async with room:
            try:
                await running.process.wait()
                await running.end()
            finally:
                self._running.discard(running)
                self._spawned.pop(process_id, None)

    async def kill(self, process_id: str) -> None:
        found = self._spawned.get(process_id)
        if found is None:  # it has ended
            return
        running, tending = found
        running.kill("cancelled")
        await asyncio.wait([tending], timeout=KILL_SECONDS)

    async def read(self, path: str, *, max_bytes: int) -> bytes:
        return await self._in_thread(lambda: self._files.read(path, max_bytes))

    async def write(self, path: str, content: bytes) -> None:
        await self._in_thread(lambda: self._files.write(path, content))

    async def list(self, path: str) -> tuple[FileInfo, ...]:
        return await self._in_thread(lambda: self._files.list(path))

    async def extend(self, until: datetime) -> None:
        """Nothing to do: a local sandbox has no deadline of its own."""

    async def hibernate(self) -> SandboxState:
        """End its processes and give back the run's network; the files stay."""
        await self.detach()
        return self.state

    async def detach(self) -> None:
        await self.close()
        self._forget(self)

    async def destroy(self) -> None:
        await self._destroy(self._workspace)

    async def close(self) -> None:
        self.closed = True
        for running in tuple(self._running):
            running.kill("cancelled")
        tending = [task for _, task in self._spawned.values()]
        if tending:
            await asyncio.wait(tending, timeout=KILL_SECONDS)
        await self.network.close()

    def _command(self, script: str, cwd: str | None, env: Mapping[str, str] | None) -> Command:
        if len(script) > self._limits.script_chars_max:
            raise SandboxLimitExceeded(
                f"a command has at most {self._limits.script_chars_max} characters"
            )
        return Command(script, posixpath.join(WORKING_DIRECTORY, cwd or ""), env or NOTHING)

    @contextlib.asynccontextmanager
    async def _room(self) -> AsyncIterator[Place]:
        """A place for one more command. Raises SandboxNotFound, …Unavailable, …LimitExceeded."""
        if self._commands >= self._limits.commands_max:
            raise SandboxLimitExceeded(
                f"{self._limits.commands_max} commands already run in this sandbox"
            )
        if not self._workspace.is_made():
            raise SandboxNotFound(f"the sandbox {self.state.name} is gone")
        self._commands += 1
        try:
            place = await self.network.place()
            async with self._quota.watching():
                yield place
        finally:
            self._commands -= 1

    def _hold(self, running: Running) -> None:
        self._running.add(running)
        if self.closed:  # while it was starting
            running.kill("cancelled")

    def _breached(self) -> None:
        for running in self._running:
            running.kill("disk_quota")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._limits.file_seconds):
                return await asyncio.to_thread(work)
        except TimeoutError as error:
            raise SandboxUnavailable("the workspace's volume does not answer") from error
