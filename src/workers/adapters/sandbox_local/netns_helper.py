"""A program, run once for each run: makes its namespaces, hands them over, and exits.

    python -I -S netns_helper.py SOCKET_FD [UID BASE TOOLS FILE...]

Sends over SOCKET_FD (SCM_RIGHTS) a listener on 127.0.0.1:80 inside a new network namespace, then
the user and the network namespace. Started by root (with UID …) it also makes a mount namespace
in which the unprivileged UID can reach the folder BASE, and run copies of each FILE below the
folder TOOLS, whatever folders and modes hide them, and sends that too. Nobody else's view of the
machine changes.

It is a program of its own because a process with threads cannot enter a user namespace. It leaves
root only after it has started, for the interpreter may lie where UID cannot read.
"""

import array
import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 4096, 16384, 1 << 19
PR_SET_DUMPABLE = 4
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
API_PORT = 80
BACKLOG = 64
TOOL_BYTES_MAX = 4 * 1024 * 1024
VIEW = "/tmp"  # noqa: S108 - a tmpfs in a mount namespace of our own
BASE_SEEN, TOOLS_SEEN = f"{VIEW}/sandbox", f"{VIEW}/tools"

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source: str, target: str, kind: bytes | None, flags: int, data: bytes = b"") -> None:
    done = libc.mount(source.encode(), target.encode(), kind, ctypes.c_ulong(flags), data)
    check(done, f"mount {target}")


def make_view(base: str, tools: str, files: list[str]) -> None:
    """A mount namespace with `base` and the tools below VIEW, under folders that all can pass."""
    contents = {name: read(f"{tools}/{name}") for name in files}
    check(libc.unshare(CLONE_NEWNS), "a mount namespace")
    mount("none", "/", None, MS_REC | MS_SLAVE)
    # Opened in the new namespace, for nothing is bound across two; before VIEW may hide it.
    folder = os.open(base, os.O_PATH)
    mount("tmpfs", VIEW, b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755,size=8m")
    os.mkdir(BASE_SEEN, 0o755)  # noqa: PTH102 - the fewer imports, the quicker the start
    mount(f"/proc/self/fd/{folder}", BASE_SEEN, None, MS_BIND | MS_REC)
    for name, content in contents.items():
        seen = f"{TOOLS_SEEN}/{name}"
        os.makedirs(seen.rpartition("/")[0], 0o755, exist_ok=True)  # noqa: PTH103
        descriptor = os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
        os.write(descriptor, content)
        os.close(descriptor)


def unshare_as_user() -> None:
    """An ordinary user may map itself, and only itself."""
    user, group = os.getuid(), os.getgid()
    check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET), "a user and a network namespace")
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{user} {user} 1")
    write("/proc/self/gid_map", f"{group} {group} 1")


def unshare_as(user: int) -> None:
    """As root: go on as `user`, in namespaces that belong to it.

    The maps are written from outside by the parent, so that setgroups stays allowed: whoever
    enters from root drops root's groups there.
    """
    told, tell = os.pipe()
    mapped, map_done = os.pipe()
    child = os.fork()
    if child:
        os.read(told, 1)
        write(f"/proc/{child}/uid_map", f"{user} {user} 1")
        write(f"/proc/{child}/gid_map", f"{user} {user} 1")
        os.write(map_done, b".")
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    check(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")
    check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET), "a user and a network namespace")
    os.write(tell, b".")
    os.close(map_done)
    if not os.read(mapped, 1):
        raise OSError("the parent could not map the user")


def read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = os.read(descriptor, TOOL_BYTES_MAX)
    finally:
        os.close(descriptor)
    return content


def write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))


def main(arguments: list[str]) -> None:
    out = socket.socket(fileno=int(arguments[0]))
    names = ["user", "net"]
    if len(arguments) == 1:
        unshare_as_user()
    else:
        user, base, tools, *files = arguments[1:]
        os.umask(0o022)
        make_view(base, tools, files)
        unshare_as(int(user))
        names.append("mnt")
    raise_loopback()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", API_PORT))
    listener.listen(BACKLOG)
    spaces = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in names]
    rights = array.array("i", [listener.fileno(), *spaces])
    out.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    os._exit(0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        os._exit(1)
