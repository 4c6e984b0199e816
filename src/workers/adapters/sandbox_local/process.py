"""Starting one command in a bubblewrap of its own, and killing it with all that it started."""

import asyncio
import contextlib
import io
import os
import re
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from runs_domain.errors import SandboxUnavailable
from workers.adapters.sandbox_local import bwrap, netns_helper, seccomp
from workers.adapters.sandbox_local.limits import Limits
from workers.adapters.sandbox_local.netns import Namespaces
from workers.adapters.sandbox_local.programs import Programs
from workers.adapters.sandbox_local.spawn import KILL_SECONDS, kill, put_down, spawn

KillReason = Literal["timed_out", "cancelled", "output_limit", "disk_quota"]

_STATUS_BYTES: Final = 4096
_CHILD: Final = re.compile(rb'"child-pid": (\d+)')


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

    def __init__(self, process: Process, status: io.FileIO, init: int | None) -> None:
        """`init`: a pidfd of the first process inside; None if there is none."""
        self.process = process
        self.killed_for: KillReason | None = None
        self.script_ended = False
        """After `end`: the script came to its own end; False if it never ran or was killed."""
        self._status = status
        self._init = init

    def kill(self, reason: KillReason) -> None:
        """Everything that it started dies with it. The first reason stays."""
        if self.process.returncode is not None:
            return
        self.killed_for = self.killed_for or reason
        if self._init is None:
            kill(self.process)
            return
        # The whole pid namespace ends with its first process, which bubblewrap then reaps. Killing
        # bubblewrap would do as well, but leave that one to whoever reaps this host's orphans.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._init, signal.SIGKILL)

    async def end(self) -> None:
        """Once: wait until an ended or killed command is gone. Raises SandboxUnavailable."""
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await self.process.wait()
            self.script_ended = b'"exit-code"' in (self._status.read(_STATUS_BYTES) or b"")
        except TimeoutError as error:
            kill(self.process)
            raise SandboxUnavailable("a killed command would not end") from error
        finally:
            self._status.close()
            if self._init is not None:
                os.close(self._init)
                self._init = None


async def start(place: Place, command: Command, *, stdin: int, output: int) -> Running:
    """Start a command. Its first line runs only when it is sure to die with this process.

    Raises SandboxUnavailable, ValueError for a NUL in the script or the cwd.
    """
    content = _content(command)
    with contextlib.ExitStack() as opened:
        # Every descriptor stays in this call's locals: two commands never share one.
        script = _memory(opened, b"")
        status, status_end = _pipe(opened)
        gate_end, gate = _pipe(opened)
        arguments, passed = _arguments(opened, place, command, script)
        process = await spawn(
            *(*place.namespaces.entering(place.programs.nsenter), _bwrap(place)),
            *("--json-status-fd", str(status_end.fileno()), "--block-fd", str(gate_end.fileno())),
            *arguments,
            stdin=stdin,
            stdout=output,
            stderr=output,
            pass_fds=(*passed, status_end.fileno(), gate_end.fileno()),
        )
        status_end.close()
        try:
            init = await _first_process(status, place.limits)
        except BaseException:
            await put_down(process)
            raise
        # Had this process died until now, the script would be empty.
        os.pwrite(script.fileno(), content, 0)
        gate.write(b".")
        return Running(process, io.FileIO(os.dup(status.fileno()), "r"), init)


def _arguments(
    opened: contextlib.ExitStack, place: Place, command: Command, script: io.FileIO
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The rest of bubblewrap's command line, and the descriptors that it names."""
    namespaces = place.namespaces
    program = seccomp.program()
    filters = () if program is None else (_memory(opened, program).fileno(),)
    options = _memory(
        opened,
        bwrap.options(
            str(place.base) if namespaces.mount is None else netns_helper.BASE_SEEN,
            command.environment,
            place.limits,
            seccomp_fd=filters[0] if filters else None,
        ),
    )
    prologue = bwrap.prologue(place.limits, script_fd=script.fileno(), close=namespaces.descriptors)
    return (
        ("--args", str(options.fileno()), "--", "/bin/bash", "-c", prologue),
        (options.fileno(), script.fileno(), *filters, *namespaces.descriptors),
    )


def _content(command: Command) -> bytes:
    if "\0" in command.script or "\0" in command.cwd:
        raise ValueError("a command cannot contain U+0000")
    return f"{command.cwd}\0{command.script}\0".encode("utf-8", "replace")


def _memory(opened: contextlib.ExitStack, content: bytes) -> io.FileIO:
    """A file without a name that begins with `content`, read from its start."""
    file = opened.enter_context(io.FileIO(os.memfd_create("runledger"), "r+"))
    os.pwrite(file.fileno(), content, 0)
    return file


def _pipe(opened: contextlib.ExitStack) -> tuple[io.FileIO, io.FileIO]:
    read_end, write_end = os.pipe()
    return (
        opened.enter_context(io.FileIO(read_end, "r")),
        opened.enter_context(io.FileIO(write_end, "w")),
    )


def _bwrap(place: Place) -> str:
    if place.namespaces.mount is None:
        return str(place.programs.bwrap)
    return f"{netns_helper.TOOLS_SEEN}/{place.programs.bwrap_files[0]}"


async def _first_process(status: io.FileIO, limits: Limits) -> int | None:
    """A pidfd of the pid namespace's first process, once bubblewrap is bound to die with us.

    None if bubblewrap ended before: who waits for the end sees that nothing ran.
    """
    os.set_blocking(status.fileno(), False)
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
    found = _CHILD.search(status.read(_STATUS_BYTES) or b"")
    if found is None:
        return None
    try:
        return os.pidfd_open(int(found[1]))
    except ProcessLookupError:
        return None
