"""The command line of scripts that rebuild or check views."""

import argparse
import os
from collections.abc import Callable
from typing import Final

from runs_domain.errors import UnknownView
from runs_domain.storage.views import named

WORKERS_MAX: Final = 64
SHOWN: Final = 20
SHOWN_MAX: Final = 1_000_000


def add_view_arguments(parser: argparse.ArgumentParser, *, workers: str, limit: str) -> None:
    """VIEW…, --workers and --limit; the texts say what the two are of."""
    parser.add_argument("views", nargs="*", metavar="VIEW", help="names of views; none = all")
    parser.add_argument(
        "--workers",
        type=whole(1, WORKERS_MAX),
        default=min(os.cpu_count() or 1, WORKERS_MAX),
        help=f"{workers} (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=whole(0, SHOWN_MAX),
        default=SHOWN,
        help=f"{limit} (default: %(default)s)",
    )


def views_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[str, ...]:
    """The names given, or all; leaves by `parser` at one that is none."""
    try:
        return tuple(view.name for view in named(options.views))
    except UnknownView as error:
        parser.error(str(error))


def whole(least: int, most: int) -> Callable[[str], int]:
    """An argparse type."""

    def number(given: str) -> int:
        # No more digits than tell that it is too large: Python refuses to read thousands of them.
        digits = given.lstrip("0")[: len(str(most)) + 1] or "0"
        if not (given.isascii() and given.isdecimal() and least <= int(digits) <= most):
            raise argparse.ArgumentTypeError(f"it takes a whole number from {least} to {most}")
        return int(digits)

    return number
