"""The embedded servers of one data directory, started and stopped together by one owner."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from workers.stack.places import Places
from workers.stack.postgres import Postgres
from workers.stack.valkey import Valkey

SERVICE: Final = "runledger_app"
"""The login role of the processes; a member of the group that migrations grant rights to."""


class Servers:
    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        """Makes the directories, starts nothing. Raises StackError, LookupError."""
        self.places = Places(data_dir)
        self.postgres = Postgres(self.places, durable=durable)
        self.valkey = Valkey(self.places)
        self._open = ExitStack()

    def start(self, on_owned: Callable[[], None] = lambda: None) -> None:
        """Both servers, or neither. StackError if another owner is there or one does not start.

        `on_owned` is called first, once the data directory is this process's.
        """
        with ExitStack() as undo:
            undo.callback(os.close, self.places.own())
            on_owned()
            undo.callback(self.valkey.stop)
            self.valkey.start()
            undo.callback(self.postgres.stop)
            self.postgres.start()
            self._open = undo.pop_all()

    def stop(self) -> None:
        """Both, cleanly; then the data directory is free for another owner."""
        self._open.close()

    def database_url(self, database: str, *, admin: bool = False) -> str:
        """As the service's role, or as the owner of everything."""
        if admin:
            return self.postgres.url(database)
        return self.postgres.url(database, user=SERVICE)

    @property
    def redis_url(self) -> str:
        return self.valkey.url()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
