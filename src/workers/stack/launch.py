"""Become another program that dies with its supervisor: `python -I -S launch.py OPTIONS -- ARGV`.

A file of its own, run by path, because every step must come between fork and exec, in this order:
the change of user clears the death signal, so the signal is set after it; a parent that died
before that is noticed by its pid. Only the standard library: it runs outside the virtual
environment's packages, and as root it is read before the change of user.
"""

import argparse
import ctypes
import os
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
EXIT_PARENT_GONE: Final = 120
EXIT_CANNOT_START: Final = 121


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True, help="pid that must still be there")
    parser.add_argument("--signal", type=int, required=True, help="what its death sends")
    parser.add_argument("--uid", type=int, help="only with --gid: whom to become")
    parser.add_argument("--gid", type=int)
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    if options.uid is not None:
        os.setgroups([])
        os.setgid(options.gid)
        os.setuid(options.uid)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, options.signal, 0, 0, 0) != 0:
        print(f"no death signal: {os.strerror(ctypes.get_errno())}", file=sys.stderr)  # noqa: T201 - stderr is the log
        return EXIT_CANNOT_START
    if os.getppid() != options.parent:
        return EXIT_PARENT_GONE
    try:
        os.execv(options.argv[0], options.argv)  # noqa: S606 - no shell is the point
    except OSError as error:
        print(f"{options.argv[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 - see above
    return EXIT_CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
