"""Work that ignores its cancellation: nobody waits for it, and still it is looked at when it ends.

asyncio would log what nobody looks at, with every word of it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_left: Final[set[asyncio.Future[Any]]] = set()
"""Referenced until it ends."""


def leave(task: asyncio.Future[T], look: Callable[[asyncio.Future[T]], None]) -> bool:
    """`look` at how `task`, which was cancelled, ended: now, or when it does. True = it goes on."""
    if task.done():
        look(task)
        return False
    _left.add(task)
    task.add_done_callback(_left.discard)
    task.add_done_callback(look)
    return True
