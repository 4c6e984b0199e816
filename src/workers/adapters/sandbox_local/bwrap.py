"""What a command sees and may do, as bubblewrap's options.

Options travel by `--args FD` and never on the command line, which every local user can read;
so does the command's environment (as `--setenv` inside that file), which keeps the programs that
start bubblewrap, as root perhaps, out of reach of variables such as LD_PRELOAD.
"""

import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from workers.adapters.sandbox_local.limits import KIB, Limits

WORKING_DIRECTORY: Final = "/workspace"
HOME: Final = "/home/agent"
USER_ID: Final = 1000
"""As the command sees itself."""

ENVIRONMENT: Final[dict[str, str]] = {
    "HOME": HOME,
    "USER": "agent",
    "LOGNAME": "agent",
    "SHELL": "/bin/bash",
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
}
ETC: Final[dict[str, str]] = {
    "passwd": f"agent:x:{USER_ID}:{USER_ID}:agent:{HOME}:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "group": f"agent:x:{USER_ID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n",
}
"""Made-up files, kept beside the workspace; without passwd `whoami` and ssh fail."""

_HOST_FILES: Final = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
_ROOT_LINKS: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


def options(
    base: str, environment: Mapping[str, str], limits: Limits, *, seccomp_fd: int | None
) -> bytes:
    """The content of `--args`. `base` is the sandbox's folder as bubblewrap can reach it."""
    return b"".join(
        option.encode("utf-8", "surrogateescape") + b"\0"
        for option in (
            *_isolation(),
            *_system(),
            *_scratch(limits.tmp_bytes_max),
            *_own_files(base),
            *("--remount-ro", "/dev", "--remount-ro", "/"),
            *("--chdir", WORKING_DIRECTORY, "--clearenv"),
            *_setenv({**ENVIRONMENT, **environment}),
            *(() if seccomp_fd is None else ("--seccomp", str(seccomp_fd))),
        )
    )


def _isolation() -> tuple[str, ...]:
    # --unshare-all would only *try* the user namespace; no --unshare-net: we are in the run's own.
    return (
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--disable-userns",
        *("--uid", str(USER_ID), "--gid", str(USER_ID)),
        *("--cap-drop", "ALL"),
        *("--hostname", "sandbox"),
        "--new-session",
        "--die-with-parent",
    )


def _system() -> Iterator[str]:
    yield from ("--ro-bind", "/usr", "/usr")
    for name in _ROOT_LINKS:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    for name in _HOST_FILES:
        yield from ("--ro-bind-try", name, name)


def _scratch(size_bytes: int) -> Iterator[str]:
    yield from ("--proc", "/proc", "--dev", "/dev")
    for place in ("/tmp", "/run", "/dev/shm"):  # noqa: S108 - the sandbox's own
        yield from ("--size", str(size_bytes), "--tmpfs", place)


def _own_files(base: str) -> Iterator[str]:
    for name in ETC:
        yield from ("--ro-bind", f"{base}/etc/{name}", f"/etc/{name}")
    yield from ("--bind", f"{base}/workspace", WORKING_DIRECTORY)
    yield from ("--bind", f"{base}/home", HOME)


def _setenv(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if not (name.isascii() and name.isidentifier()) or "\0" in value:
            raise ValueError(f"not an environment variable: {name!r}")
        yield from ("--setenv", name, value)


def prologue(limits: Limits, *, script_fd: int, close: tuple[int, ...]) -> str:
    """The bash text that comes before the script: hard limits, clean descriptors, the cwd.

    The file of `script_fd` holds two NUL-ended strings, the cwd and the script. `eval` has no
    length limit where an argument has 128 KiB, and expands its text before `unset` is run.
    """
    closing = " ".join(f"{fd}<&-" for fd in (script_fd, *close))
    return (
        f"ulimit {' '.join(_ulimits(limits))}\n"
        f"IFS= read -r -d '' -u {script_fd} _cwd; IFS= read -r -d '' -u {script_fd} _script\n"
        f'exec {closing}; cd -- "$_cwd" || exit 1; eval "unset -v _cwd _script OLDPWD; $_script"'
    )


def _ulimits(limits: Limits) -> Iterator[str]:
    """Both soft and hard; a limit of the worker's own that is lower stays."""
    for flag, kind, value, unit in (
        ("-u", resource.RLIMIT_NPROC, limits.processes_max, 1),
        ("-d", resource.RLIMIT_DATA, limits.data_bytes_max, KIB),
        ("-f", resource.RLIMIT_FSIZE, limits.file_bytes_max, KIB),
        ("-n", resource.RLIMIT_NOFILE, limits.open_files_max, 1),
        ("-t", resource.RLIMIT_CPU, limits.cpu_seconds_max, 1),
        ("-c", resource.RLIMIT_CORE, 0, KIB),
    ):
        hard = resource.getrlimit(kind)[1]
        yield f"{flag} {(value if hard == resource.RLIM_INFINITY else min(value, hard)) // unit}"
