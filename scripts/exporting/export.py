"""An export from its first look at the log to the manifest, begun or gone on with."""

import argparse
from importlib.metadata import version

from exporting.place import Place
from exporting.progress import Progress
from exporting.state import Asked, Counts, Header, Manifest, Unfinished
from exporting.writer import BundleWriter

from runs_domain.errors import ContentErased
from runs_domain.ids import AccountId
from runs_domain.keys import secrets_of
from runs_domain.settings import BadSettings, Settings
from runs_domain.storage.codec import time_text
from runs_domain.storage.connection import Fetches, ReconnectingConnection
from runs_domain.storage.data_key_rows import PostgresDataKeys
from runs_domain.storage.export_reads import (
    SWEEP_POSITIONS_MAX,
    AccountEvents,
    account_facts,
    strays,
)
from runs_domain.storage.export_span import log_mark, pin
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.sealing import DataKey, DataKeys
from runs_domain.storage.secret_check import WRONG_SECRET, is_right_secret


class BadArguments(BadSettings):
    """The message is a sentence about the command line."""


class Export:
    def __init__(
        self, settings: Settings, connection: ReconnectingConnection, options: argparse.Namespace
    ) -> None:
        self._connection = connection
        self._secrets = secrets_of(settings)
        self._data_keys = DataKeys(PostgresDataKeys(connection), self._secrets, SystemClock())
        self._options = options
        self._account = AccountId(options.account)
        self._asked = Asked(
            since=None if options.since is None else time_text(options.since),
            until=None if options.until is None else time_text(options.until),
            unsealed=options.unsealed,
        )

    async def check(self, look: Fetches) -> None:
        """Before anything is made. Raises BadSettings, StoreUnavailable."""
        if not (await account_facts(look, self._account)).known:
            raise BadArguments(f"no such account: {self._account}")
        if self._asked.unsealed and await is_right_secret(look, self._secrets) is False:
            raise BadSettings(WRONG_SECRET)

    def refuse_other(self, account: AccountId, asked: Asked) -> None:
        """Raises BadArguments if DIR holds what another command has asked for."""
        if account != self._account:
            raise BadArguments(f"{self._options.out} holds an export of another account, {account}")
        if asked != self._asked:
            raise BadArguments(
                f"{self._options.out} holds an export with other arguments ({_words(asked)}):"
                " give those, or name a new directory"
            )

    async def begins(self, place: Place) -> Unfinished:
        facts = await account_facts(self._connection, self._account)
        span = await pin(self._connection, self._options.since, self._options.until)
        searched = span.through - span.after <= SWEEP_POSITIONS_MAX
        header = Header(
            tool=f"runledger {version('runledger')}",
            account=self._account,
            asked=self._asked,
            window=span,
            log_mark=await log_mark(self._connection, span.through),
            content_erased=facts.erased,
            searched_for_lost_heads=searched,
            lost_heads=await strays(self._connection, self._account, span) if searched else (),
        )
        state = Unfinished(account=self._account, header=header, counts=Counts(), files=[])
        place.keep(state)
        return state

    async def goes_on(self, state: Unfinished) -> Unfinished:
        header = state.header
        self.refuse_other(header.account, header.asked)
        if header.log_mark != await log_mark(self._connection, header.window.through):
            raise BadArguments(f"{self._options.out} holds an export of another database")
        await self._refuse_erased(header)
        return state

    async def write(self, writer: BundleWriter, header: Header) -> Manifest:
        events = AccountEvents(
            self._connection, self._account, header.window, lost=header.lost_heads
        )
        at, after = writer.at
        passed = 0 if at is None else await events.runs(before=at)
        with Progress(await events.runs(), passed, writer.events) as progress:
            try:
                async for page in events.pages(at, after):
                    key = await self._key(header)
                    for run, row in page:
                        writer.add(run, row, key)
                    progress.show(passed + events.passed, writer.events)
                await self._refuse_erased(header)
                return writer.finish()
            finally:
                writer.close()

    async def _key(self, header: Header) -> DataKey | None:
        if not header.asked.unsealed or header.content_erased:
            return None
        key = (await self._data_keys.for_reading([self._account]))[self._account]
        if key is None:
            await self._refuse_erased(header)
        return key

    async def _refuse_erased(self, header: Header) -> None:
        facts = await account_facts(self._connection, self._account)
        if facts.erased != header.content_erased:
            raise ContentErased(
                f"the account was erased after this export began: remove {self._options.out}"
                " and begin anew"
            )


def _words(asked: Asked) -> str:
    given = {"--since": asked.since, "--until": asked.until}
    words = [f"{name} {value}" for name, value in given.items() if value is not None]
    return " ".join([*words, *(["--unsealed"] if asked.unsealed else [])]) or "none but --account"
