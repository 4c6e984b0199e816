"""The numbers of a writer's batches, and the receipts that the database keeps of them.

A batch whose answer was read is over, so its receipt is deleted, many at a time. One that was in
doubt was settled by its number, but the lost request may still be on its way to the server: its
receipt stays for days, so that the request finds it whenever it arrives.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

import psycopg

from runs_domain.errors import StoreUnavailable
from runs_domain.storage.connection import ReconnectingConnection
from runs_domain.storage.identity import uuid7

RECEIPTS_MAX: Final = 1000
"""Batches between two deletions."""
RECEIPT_KEPT_DAYS: Final = 7
"""For those in doubt, and those of a writer that was killed."""

_FORGET_READ: Final = """
    WITH gone AS (
        DELETE FROM log_receipts
        WHERE writer_id = %b AND batch BETWEEN %b::bigint AND %b::bigint
            AND batch <> ALL (%b::bigint[])
        RETURNING batch
    )
    SELECT count(*) FROM gone"""
_FORGET_OLD: Final = """
    WITH gone AS (
        DELETE FROM log_receipts WHERE at < now() - make_interval(days => %b::integer)
        RETURNING batch
    )
    SELECT count(*) FROM gone"""

_log = logging.getLogger(__name__)


class Receipts:
    def __init__(self, connection: ReconnectingConnection) -> None:
        self._connection = connection
        self.writer: Final = uuid7()
        self.number = 0
        """Of the newest batch."""
        self._first = 1
        """What comes before is deleted, or in doubt and stays."""
        self._doubtful: list[int] = []
        self._due = RECEIPTS_MAX
        self._old_are_due = True

    def take_number(self) -> int:
        self.number += 1
        return self.number

    def keep(self) -> None:
        """The newest batch is in doubt."""
        self._doubtful.append(self.number)

    async def tidy(self) -> None:
        """Delete what was read, if it is time; the newest batch must be settled. A database that
        is away is asked later.
        """
        if self.number >= self._due:
            await self._forget_read()
            if self._old_are_due:
                await self._forget_old()

    async def close(self) -> None:
        await self._forget_read()
        await self._forget_old()

    async def _forget_old(self) -> None:
        """Once in a writer's life and at its end: no writer may end well for a long time."""
        self._old_are_due = not await self._delete(_FORGET_OLD, (RECEIPT_KEPT_DAYS,))

    async def _forget_read(self) -> None:
        self._due = self.number + RECEIPTS_MAX
        read = (self.writer, self._first, self.number, self._doubtful)
        if await self._delete(_FORGET_READ, read):
            self._first = self.number + 1
            self._doubtful = []

    async def _delete(self, statement: str, values: Sequence[Any]) -> bool:
        try:
            await self._connection.fetch(statement, values)
        except (StoreUnavailable, psycopg.Error) as error:
            _log.warning("receipts are deleted later: %s", type(error).__name__)
            return False
        return True
