"""Who an operator is: as events, letters and erasures name them."""

import argparse
import getpass
import os

NAME_CHARACTERS_MAX = 64


def name_of(given: str) -> str:
    """An argparse type."""
    if not (0 < len(given) <= NAME_CHARACTERS_MAX and given.isascii() and given.isprintable()):
        raise argparse.ArgumentTypeError("a name has 1 to 64 printable ASCII characters")
    return given


def actor_of(given: str | None) -> str:
    """`ops:<name>`; without a name that of the login."""
    return f"ops:{given or _login_name()}"


def _login_name() -> str:
    try:
        return name_of(getpass.getuser())
    except (OSError, KeyError, argparse.ArgumentTypeError):
        return f"uid-{os.getuid()}"
