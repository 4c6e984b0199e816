"""The system calls that no command needs and that kernel exploits do: a deny list as classic BPF.

x86-64 only, for the numbers differ by machine; elsewhere `program()` is None and the probe says
so. The other walls (namespaces, no capabilities, no_new_privs) stand without it.
"""

import errno
import platform
import socket
import struct
from typing import Final

_AUDIT_ARCH_X86_64: Final = 0xC000003E
_X32_BIT: Final = 0x40000000

_NUMBERS: Final[dict[str, int]] = {
    "ptrace": 101,
    "syslog": 103,
    "pivot_root": 155,
    "acct": 163,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "init_module": 175,
    "delete_module": 176,
    "quotactl": 179,
    "lookup_dcookie": 212,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "quotactl_fd": 443,
}
_SOCKET: Final = 41
_SOCKETPAIR: Final = 53
_CLONE: Final = 56
_IOCTL: Final = 16
_CLONE3: Final = 435

# Any new namespace; clone3 hides its flags behind a pointer, so libc is sent back to clone.
_CLONE_NEW: Final = (
    0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
)
# Typing into the terminal of whoever started us.
_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C
# AF_VSOCK reaches the hypervisor past the network namespace; AF_ALG and others are attack surface.
_FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)

_LOAD_WORD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_AT_NUMBER: Final = 0
_AT_ARCH: Final = 4
_AT_ARGUMENT_0: Final = 16
_AT_ARGUMENT_1: Final = 24
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000


def _refuse(code: int) -> int:
    return 0x00050000 | code


def program() -> bytes | None:
    """The filter for `bwrap --seccomp`, or None where none is written for this machine."""
    if platform.machine() != "x86_64":
        return None
    steps = [
        (_LOAD_WORD, 0, 0, _AT_ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD_WORD, 0, 0, _AT_NUMBER),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _refuse(errno.ENOSYS)),
    ]
    for number in sorted(_NUMBERS.values()):
        steps += _when(_JUMP_EQUAL, number, _refuse(errno.EPERM))
    steps += _when(_JUMP_EQUAL, _CLONE3, _refuse(errno.ENOSYS))
    steps += _inside(
        _CLONE,
        (_LOAD_WORD, 0, 0, _AT_ARGUMENT_0),
        *_when(_JUMP_ANY_BIT, _CLONE_NEW, _refuse(errno.EPERM)),
        (_RETURN, 0, 0, _ALLOW),
    )
    steps += _inside(
        _IOCTL,
        (_LOAD_WORD, 0, 0, _AT_ARGUMENT_1),
        *_when(_JUMP_EQUAL, _TIOCSTI, _refuse(errno.EPERM)),
        *_when(_JUMP_EQUAL, _TIOCLINUX, _refuse(errno.EPERM)),
        (_RETURN, 0, 0, _ALLOW),
    )
    for call in (_SOCKET, _SOCKETPAIR):
        allowed = [step for family in _FAMILIES for step in _when(_JUMP_EQUAL, family, _ALLOW)]
        steps += _inside(
            call,
            (_LOAD_WORD, 0, 0, _AT_ARGUMENT_0),
            *allowed,
            (_RETURN, 0, 0, _refuse(errno.EAFNOSUPPORT)),
        )
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


_Step = tuple[int, int, int, int]


def _when(jump: int, value: int, verdict: int) -> tuple[_Step, _Step]:
    return (jump, 0, 1, value), (_RETURN, 0, 0, verdict)


def _inside(number: int, *steps: _Step) -> tuple[_Step, ...]:
    """`steps` for one system call; they must end with a verdict."""
    return ((_JUMP_EQUAL, 0, len(steps), number), *steps)
