"""Whole appends for tests of the log, and the fixture pieces they share."""

from typing import Any
from uuid import UUID

from msgspec.structs import replace
from typing_extensions import override

from runs_domain import commands as c
from runs_domain.events import Event
from runs_domain.handle import Stream, advanced, append_of, empty
from runs_domain.ids import AccountId, Attempt, ChatId, KeyId, RunId, SessionId
from runs_domain.keys import DerivedKeyIssuer, ServerSecrets
from runs_domain.ports import Append, Context, EventLog, KeyRow, Recorded
from runs_domain.run import decide
from runs_domain.settings import Secret
from runs_domain.storage.identity import (
    SystemClock,
    new_account_id,
    new_chat_id,
    new_run_id,
    uuid7,
)
from tests.support import builders

SECRET = "a server secret for tests, long enough"  # noqa: S105 - a test's
SECRETS = ServerSecrets({1: Secret(SECRET)}, current=1)
CONTEXT = Context(
    actor="worker",
    subject=builders.ACCOUNT,
    correlation="correlation-1",
    causation="request-1",
    attempt=Attempt(1),
)


class Run:
    """One run and its stream, as a worker would keep it: append by command."""

    def __init__(
        self,
        log: EventLog,
        *,
        run_id: RunId | None = None,
        chat_id: ChatId | None = None,
        account_id: AccountId | None = None,
    ) -> None:
        self.log = log
        self.run_id = run_id or new_run_id()
        self.chat_id = chat_id or new_chat_id()
        self.account_id = account_id or new_account_id()
        self.key_id = KeyId(uuid7())
        self.stream: Stream = empty(self.run_id)

    @property
    def context(self) -> Context:
        return replace(CONTEXT, subject=self.account_id)

    def append_of(self, *events: Event, mint: KeyRow | None = None) -> Append:
        return append_of(self.stream, events, self.context, mint=mint)

    def decided(self, *commands: c.Command, mint: KeyRow | None = None) -> Append:
        events: list[Event] = []
        state = self.stream.state
        for command in commands:
            made = decide(state, command)
            events += made
            state = builders.after(command, state=state)
        return self.append_of(*events, mint=mint)

    async def append(self, append: Append) -> tuple[Recorded, ...]:
        recorded = await self.log.append(append)
        self.stream = advanced(self.stream, recorded)
        return recorded

    async def do(self, *commands: c.Command, mint: KeyRow | None = None) -> tuple[Recorded, ...]:
        return await self.append(self.decided(*commands, mint=mint))

    def request(self, **changes: Any) -> c.RequestRun:
        return builders.request_run(
            **(
                {
                    "account_id": self.account_id,
                    "chat_id": self.chat_id,
                    "session_id": SessionId(UUID(int=self.run_id.int ^ 1)),
                }
                | changes
            )
        )

    def mint(self) -> tuple[c.MintKey, KeyRow]:
        command = replace(builders.mint_key(), key_id=self.key_id)
        key = DerivedKeyIssuer(SECRETS, "recoup_sk_").derive(
            self.key_id,
            self.run_id,
            secret_version=command.secret_version,
            ttl_seconds=command.ttl_seconds,
            scopes=command.scopes,
        )
        return command, key.row

    async def start(self) -> tuple[Recorded, ...]:
        """Requested, then provisioned, key_minted and started in one append."""
        requested = await self.do(self.request())
        mint, row = self.mint()
        started = await self.do(builders.provisioned(), mint, builders.start(), mint=row)
        return (*requested, *started)

    async def finish(self, text: str = "hello") -> None:
        await self.start()
        await self.do(builders.text_step(self.stream.state, text))
        await self.do(c.CompleteRun(attempt=Attempt(1)))
        await self.do(c.RecordSandboxReleased(found=False))


class ShiftedClock(SystemClock):
    """The system's clock, and a way to make time pass at once."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    @override
    def monotonic_seconds(self) -> float:
        return super().monotonic_seconds() + self.ahead_seconds
