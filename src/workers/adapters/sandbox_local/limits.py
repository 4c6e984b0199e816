"""Every limit of the local sandbox, by name and unit. Tests pass smaller ones."""

from typing import Final

from runs_domain.events import Struct

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


class Limits(Struct, frozen=True):
    # What one command may use. rlimits count per process; only `processes_max` is a total.
    processes_max: int = 128
    data_bytes_max: int = 600 * MIB
    """RLIMIT_DATA and not _AS: a JVM or Node reserves far more address space than it uses."""
    file_bytes_max: int = 64 * MIB
    open_files_max: int = 512
    cpu_seconds_max: int = 600
    tmp_bytes_max: int = 64 * MIB
    """Each of /tmp, /run and /dev/shm."""

    # What goes in and out of one command.
    script_chars_max: int = 1024 * 1024
    stdin_bytes_max: int = 8 * MIB
    output_bytes_max: int = 8 * MIB
    """Past it the command is killed."""
    output_head_chars: int = 25_000
    output_tail_chars: int = 25_000
    """First and last characters kept of stdout, and of stderr."""

    # What one sandbox may hold.
    commands_max: int = 16
    """At once, detached ones included."""
    workspace_bytes_max: int = 2 * GIB
    workspace_files_max: int = 200_000
    free_bytes_min: int = 512 * MIB
    """The volume's floor: below it commands are killed, whoever filled it."""
    quota_poll_seconds: float = 2.0
    list_entries_max: int = 10_000

    # How long our own parts may take.
    setup_seconds: float = 20.0
    """From the start of a command to its first line."""
    file_seconds: float = 60.0
    remove_seconds: float = 120.0
