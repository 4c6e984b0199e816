"""How a fault that nobody foresaw is told: its class and its places, never what it said.

An exception's text may quote a prompt, a tool's output, a password or a key (invariant 6).
"""

import logging
import re
import traceback
from pathlib import PurePath
from typing import Final

CAUSES_MAX: Final = 8
FRAMES_MAX: Final = 16
"""Of one exception, the innermost."""
BRIEF_CHARACTERS_MAX: Final = 200
_UNCLEAN: Final = re.compile(r"[^\w.:<> ]", re.ASCII)


def places(error: BaseException) -> list[str]:
    """Lines: the class of the error, and of those that caused it, each before the places it went
    through.
    """
    lines: list[str] = []
    waiting = [error]
    for number in range(CAUSES_MAX):
        if not waiting:
            break
        current = waiting.pop(0)
        lines.append(("caused by " if number else "") + type(current).__name__)
        frames = traceback.extract_tb(current.__traceback__)[-FRAMES_MAX:]
        lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        cause = current.__cause__ or current.__context__
        waiting += [] if cause is None else [cause]
        waiting += current.exceptions if isinstance(current, BaseExceptionGroup) else ()
    return lines


def brief(error: BaseException) -> str:
    """The class and the innermost place: `KeyError at codec.py:12 in decode`."""
    name = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return cleaned(name)
    last = frames[-1]
    return cleaned(f"{name} at {PurePath(last.filename).name}:{last.lineno} in {last.name}")


def cleaned(text: str) -> str:
    """A `brief` as it may be told on: short, and without what no class or place has."""
    return _UNCLEAN.sub("", text)[:BRIEF_CHARACTERS_MAX]


def log_fault(logger: logging.Logger, what: str, error: BaseException) -> None:
    logger.error("%s: %s", what, "\n".join(places(error)))
