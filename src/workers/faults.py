"""How a fault that nobody foresaw is logged: where it came from, never what it said.

An exception's text may quote a prompt, a tool's output or a key (invariant 6).
"""

import logging
import traceback


def log_fault(logger: logging.Logger, what: str, error: BaseException) -> None:
    where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    logger.error("%s: %s\n%s", what, type(error).__name__, where)
