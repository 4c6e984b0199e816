"""openat2(2): open below a folder, never out of it, whatever links a command planted there."""

import ctypes
import os
from typing import Final

_NUMBER: Final = 437  # on every machine but Alpha
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(folder: int, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor. Links that stay inside are followed; any way out is OSError(EXDEV)."""
    how = _How(flags | os.O_CLOEXEC, mode, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    descriptor = _libc.syscall(
        ctypes.c_long(_NUMBER),
        ctypes.c_long(folder),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int(descriptor)


def act_as(user: int | None) -> int | None:
    """Give this *thread's* file accesses the rights of `user` (and its group); the old one back.

    A root thread that has done so lost root's way round permissions too. None changes nothing.
    """
    if user is None:
        return None
    _libc.setfsgid(user)
    before = int(_libc.setfsuid(user))
    if _libc.setfsuid(-1) != user:
        raise PermissionError("cannot act as the sandbox's user")
    return before
