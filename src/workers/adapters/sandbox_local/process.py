"""Starting one command in a bubblewrap of its own, and killing it with all that it started."""

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from runs_domain.errors import SandboxUnavailable
from workers.adapters.sandbox_local import bwrap, netns_helper, seccomp
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.netns import Namespaces
from workers.adapters.sandbox_local.programs import HOST_ENVIRONMENT, Programs

KillReason = Literal["timed_out", "cancelled", "output_limit", "disk_quota"]

_STATUS_BYTES: Final = 4096


@dataclass(frozen=True)
class Place:
    """Where the commands of one run start."""

    base: Path
    """The sandbox's folder on the host."""
    namespaces: Namespaces
    programs: Programs
    limits: Limits


@dataclass(frozen=True)
class Command:
    script: str
    cwd: str
    """As the command sees it."""
    environment: Mapping[str, str]


class Running:
    """A started command."""

    def __init__(self, process: asyncio.subprocess.Process, status: io.FileIO) -> None:
        self.process = process
        self.killed_for: KillReason | None = None
        self.script_ended = False
        """After `end`: the script came to its own end; False if it never ran or was killed."""
        self._status = status

    def kill(self, reason: KillReason) -> None:
        """Everything that it started dies with it. The first reason stays."""
        if self.process.returncode is not None:
            return
        if self.killed_for is None:
            self.killed_for = reason
        # Bubblewrap's death takes its pid namespace along. Until that one is made its processes
        # are one group, whose number is the first one's pid: each command starts a session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def end(self, limits: Limits) -> None:
        """Wait, within `kill_seconds`, until an ended or killed command is gone."""
        try:
            async with asyncio.timeout(limits.kill_seconds):
                await self.process.wait()
            self.script_ended = b'"exit-code"' in (self._status.read(_STATUS_BYTES) or b"")
        except TimeoutError as error:
            raise SandboxUnavailable("a killed command would not end") from error
        finally:
            self._status.close()


async def start(place: Place, command: Command, *, stdin: int, output: int) -> Running:
    """Start a command. Its first line runs only when it is sure to die with this process.

    Raises SandboxUnavailable, ValueError for a NUL in the script or the cwd.
    """
    content = _content(command)
    with contextlib.ExitStack() as opened:
        # Every descriptor stays in this call's locals: two commands never share one.
        options_fd, script_fd, status, status_end, gate, gate_end = _descriptors(opened)
        passed = [options_fd, script_fd, status_end, gate_end]
        filter_fd = _filter(opened)
        options_fd.write(_options(place, command, filter_fd))
        options_fd.seek(0)
        if filter_fd is not None:
            passed.append(filter_fd)
        process = await asyncio.create_subprocess_exec(
            *place.namespaces.entering(place.programs.nsenter),
            *(_bwrap(place), "--args", str(options_fd.fileno())),
            *("--json-status-fd", str(status_end.fileno()), "--block-fd", str(gate_end.fileno())),
            *("--", "/bin/bash", "-c"),
            bwrap.prologue(
                place.limits, script_fd=script_fd.fileno(), close=place.namespaces.descriptors
            ),
            stdin=stdin,
            stdout=output,
            stderr=output,
            env=HOST_ENVIRONMENT,
            cwd="/",
            pass_fds=(*(file.fileno() for file in passed), *place.namespaces.descriptors),
            start_new_session=True,
        )
        status_end.close()
        running = Running(process, io.FileIO(os.dup(status.fileno()), "r"))
        try:
            await _until_bound_to_us(status, place.limits)
        except BaseException:
            running.kill("cancelled")
            await running.end(place.limits)
            raise
        # Had this process died until now, the script would be empty.
        os.pwrite(script_fd.fileno(), content, 0)
        gate.write(b".")
        return running


def _content(command: Command) -> bytes:
    if "\0" in command.script or "\0" in command.cwd:
        raise ValueError("a command cannot contain U+0000")
    return f"{command.cwd}\0{command.script}\0".encode("utf-8", "replace")


def _descriptors(opened: contextlib.ExitStack) -> tuple[io.FileIO, ...]:
    """Options, script, and both ends of two pipes: status (read first), gate (write first)."""
    options, script = _memory(opened, "options"), _memory(opened, "script")
    status, status_end = os.pipe()
    gate_end, gate = os.pipe()
    os.set_blocking(status, False)
    return (
        options,
        script,
        opened.enter_context(io.FileIO(status, "r")),
        opened.enter_context(io.FileIO(status_end, "w")),
        opened.enter_context(io.FileIO(gate, "w")),
        opened.enter_context(io.FileIO(gate_end, "r")),
    )


def _memory(opened: contextlib.ExitStack, name: str) -> io.FileIO:
    return opened.enter_context(io.FileIO(os.memfd_create(f"runledger-{name}"), "r+"))


def _filter(opened: contextlib.ExitStack) -> io.FileIO | None:
    program = seccomp.program()
    if program is None:
        return None
    file = _memory(opened, "filter")
    file.write(program)
    file.seek(0)
    return file


def _options(place: Place, command: Command, filter_fd: io.FileIO | None) -> bytes:
    return bwrap.options(
        str(place.base) if place.namespaces.mount is None else netns_helper.BASE_SEEN,
        command.environment,
        place.limits,
        seccomp_fd=None if filter_fd is None else filter_fd.fileno(),
    )


def _bwrap(place: Place) -> str:
    if place.namespaces.mount is None:
        return str(place.programs.bwrap)
    inner = place.programs.bwrap.relative_to(place.programs.bwrap_folder)
    return f"{netns_helper.TOOLS_SEEN}/{inner}"


async def _until_bound_to_us(status: io.FileIO, limits: Limits) -> None:
    """Until bubblewrap reports its child, which it does once it dies with its parent.

    Its end without a report is no error here: who waits for the end sees that nothing ran.
    """
    loop = asyncio.get_running_loop()
    reported = asyncio.Event()
    loop.add_reader(status.fileno(), reported.set)
    try:
        async with asyncio.timeout(limits.setup_seconds):
            await reported.wait()
    except TimeoutError as error:
        raise SandboxUnavailable("bubblewrap did not start in time") from error
    finally:
        loop.remove_reader(status.fileno())
