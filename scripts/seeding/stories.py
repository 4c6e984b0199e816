"""What happens in a made-up run, decided by the aggregate itself: no event is made by hand.

Of each hundred runs (`MIX`) the kinds are such that they have nine hundred events.
"""

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from msgspec.structs import replace

from runs_domain import commands as c
from runs_domain import model_port as m
from runs_domain.closing import CANCELLED, OUTCOME_UNKNOWN
from runs_domain.events import Completed, Event, Failed, Usage
from runs_domain.frames import FrameCursor, advance, cursor_of
from runs_domain.handle import append_of, empty
from runs_domain.ids import (
    AccountId,
    Attempt,
    ChatId,
    RunId,
    SessionId,
    run_key_id,
    sandbox_name,
    user_message_id,
)
from runs_domain.ports import WORKER_ACTOR, Append, Context, KeyIssuer, KeyRow
from runs_domain.run import FIRST_ATTEMPT, decide, evolve
from runs_domain.scopes import RUN_KEY_SCOPES
from runs_domain.step import StepRecorder, output_part, results

MODEL: Final = "scripted/echo"
"""Every worker of a development stack serves it, so that a run left under way can go on."""
KEY_TTL_SECONDS: Final = 900
CREDITS_RESERVED: Final = 10
TOKENS_A_CREDIT: Final = 100
WORKERS: Final = 8
DELTA_CHARS: Final = 60
INPUT_TOKENS_MAX: Final = 2_000
MICROSECONDS: Final = 1_000_000
COMMAND: Final = "ls -l report.md"
OUTPUT: Final = "-rw-r--r-- 1 agent agent 4096 report.md"
WORKSPACE_LOST: Final = "The run's workspace is not on the host that took the run over"
ASKED: Final = "asked by a client"


class Ids(NamedTuple):
    run_id: RunId
    chat_id: ChatId
    session_id: SessionId
    account_id: AccountId
    actor: str
    """Of the account's own key."""
    request_id: str
    digest: str


class Said(NamedTuple):
    """One append, and how many microseconds after the run's first one it was made."""

    at: int
    append: Append


class Teller:
    """One run as it is told: every command is decided on the state so far."""

    def __init__(
        self, ids: Ids, chance: Random, issuer: KeyIssuer, secret_version: int, text: str
    ) -> None:
        self.said: list[Said] = []
        self.text = text
        self.chance = chance
        self._ids = ids
        self._issuer = issuer
        self._secret_version = secret_version
        self._at = 0
        self._cursor: FrameCursor = cursor_of(ids.run_id)
        self._stream = empty(ids.run_id)
        self._worker = self._some_worker()

    @property
    def attempt(self) -> Attempt:
        return self._stream.state.attempt

    # -------------------------------------------------------------------- the steps of a life

    def request(self) -> None:
        ids = self._ids
        message = {
            "id": user_message_id(ids.run_id),
            "role": "user",
            "parts": [{"type": "text", "text": self.text}],
        }
        self.by_client(
            c.RequestRun(
                account_id=ids.account_id,
                actor=ids.actor,
                chat_id=ids.chat_id,
                session_id=ids.session_id,
                model=MODEL,
                request_digest=ids.digest,
                title="Scheduled generation",
                messages=(message,),
                credits_reserved=CREDITS_RESERVED,
            )
        )

    def start(self) -> None:
        key_id = run_key_id(self._ids.run_id)
        key = self._issuer.derive(
            key_id,
            self._ids.run_id,
            secret_version=self._secret_version,
            ttl_seconds=KEY_TTL_SECONDS,
            scopes=RUN_KEY_SCOPES,
        )
        self.by_worker(
            0.02,
            c.RecordProvisioned(
                attempt=self.attempt,
                sandbox=sandbox_name(self._ids.session_id),
                provider="local",
                state="named",
                working_directory="/workspace",
            ),
            c.MintKey(
                attempt=self.attempt,
                key_id=key_id,
                secret_version=key.row.secret_version,
                ttl_seconds=KEY_TTL_SECONDS,
                scopes=RUN_KEY_SCOPES,
            ),
            c.StartRun(attempt=self.attempt),
            mint=key.row,
        )

    def resume(self) -> None:
        """By another worker, once the lease of the lost one has run out."""
        before = self._worker
        while self._worker == before:
            self._worker = self._some_worker()
        attempt = Attempt(self.attempt + 1)
        self.by_worker(3.0, c.ResumeRun(attempt=attempt, reason="lost"))

    def answered(self) -> c.PersistMessage:
        """A model call that says its text and stops."""
        recorder = self._spoken()
        return recorder.finish(self.attempt, self._model_end("stop"))

    def broken_off(self, error_text: str) -> c.PersistMessage:
        return self._spoken().interrupt(self.attempt, error_text)

    def asked_for_a_tool(self) -> c.PersistMessage:
        recorder = self._recorder()
        recorder.add(m.ToolInputStart(index=0, name="bash"))
        recorder.add(m.ToolInputDelta(index=0, text=f'{{"command":"{COMMAND}"}}'))
        recorder.add(m.ToolInput(index=0, input={"command": COMMAND}))
        return recorder.finish(self.attempt, self._model_end("tool-calls"))

    def start_tools(self) -> None:
        self.by_worker(0.01, c.StartTools(attempt=self.attempt, call_ids=self._open_calls))

    def tool_result(self) -> None:
        state = self._stream.state
        calls = [part for part in state.parts if part.get("toolCallId") in state.open_calls]
        output = {"exitCode": 0, "stdout": OUTPUT, "stderr": ""}
        parts = tuple(output_part(call, output) for call in calls)
        self.by_worker(0.3, results(self._cursor, self.attempt, parts, closes_step=True))

    def release(self) -> None:
        self.by_worker(0.02, c.RecordSandboxReleased(found=self._has_worked))

    # -------------------------------------------------------------------- one append

    def by_client(self, *commands: c.Command) -> None:
        self._say(self._ids.actor, self._ids.request_id, commands, None)

    def by_worker(
        self, seconds_at_least: float, *commands: c.Command, mint: KeyRow | None = None
    ) -> None:
        """An append of the worker's, `seconds_at_least` to twice as long after the last one."""
        self._at += int(seconds_at_least * (1.0 + self.chance.random()) * MICROSECONDS)
        causation = f"{self._ids.run_id}:{self._stream.state.version}"
        self._say(WORKER_ACTOR + self._worker, causation, commands, mint)

    def wait(self, seconds_at_least: float) -> None:
        self._at += int(seconds_at_least * (1.0 + self.chance.random()) * MICROSECONDS)

    def _say(
        self, actor: str, causation: str, commands: tuple[c.Command, ...], mint: KeyRow | None
    ) -> None:
        state = self._stream.state
        events: list[Event] = []
        for command in commands:
            for decided in decide(state, command):
                event = _priced(decided)
                state = evolve(state, event)
                events.append(event)
                _, self._cursor = advance(self._cursor, event)
        context = Context(
            actor=actor,
            subject=self._ids.account_id,
            correlation=self._ids.request_id,
            causation=causation,
            attempt=FIRST_ATTEMPT,
        )
        self.said.append(Said(self._at, append_of(self._stream, events, context, mint=mint)))
        self._stream = replace(self._stream, state=state)

    # -------------------------------------------------------------------- small things

    @property
    def _open_calls(self) -> tuple[str, ...]:
        return self._stream.state.open_calls

    @property
    def _has_worked(self) -> bool:
        return bool(self._stream.state.started_calls)

    def _recorder(self) -> StepRecorder:
        return StepRecorder(self._ids.run_id, self._cursor, len(self._stream.state.parts))

    def _spoken(self) -> StepRecorder:
        recorder = self._recorder()
        for at in range(0, len(self.text), DELTA_CHARS):
            recorder.add(m.TextDelta(text=self.text[at : at + DELTA_CHARS]))
        return recorder

    def _model_end(self, reason: str) -> m.ModelEnd:
        usage = Usage(
            input_tokens=self.chance.randrange(1, INPUT_TOKENS_MAX),
            output_tokens=1 + len(self.text) // 4,
        )
        millionths = usage.input_tokens + 4 * usage.output_tokens
        return m.ModelEnd(
            finish_reason="stop" if reason == "stop" else "tool-calls",
            usage=usage,
            cost=f"0.{millionths:06d}",
        )

    def _some_worker(self) -> str:
        return f"seeded-{self.chance.randrange(WORKERS)}"


def _priced(event: Event) -> Event:
    """The aggregate charges nothing yet; a ledger needs something to hold."""
    if isinstance(event, Completed | Failed) and event.usage != Usage():
        spent = event.usage.input_tokens + event.usage.output_tokens
        charged = min(CREDITS_RESERVED, 1 + spent // TOKENS_A_CREDIT)
        return replace(event, credits_charged=charged)
    return event


# ------------------------------------------------------------------------------ lives


def plain(run: Teller) -> None:
    run.start()
    run.by_worker(2.0, run.answered(), c.CompleteRun(attempt=run.attempt))
    run.release()


def with_a_tool(run: Teller) -> None:
    run.start()
    run.by_worker(1.0, run.asked_for_a_tool())
    run.start_tools()
    run.tool_result()
    run.by_worker(2.0, run.answered(), c.CompleteRun(attempt=run.attempt))
    run.release()


def taken_over(run: Teller) -> None:
    run.start()
    run.resume()
    run.by_worker(0.1, run.broken_off(OUTCOME_UNKNOWN))
    run.by_worker(2.0, run.answered(), c.CompleteRun(attempt=run.attempt))
    run.release()


def cancelled(run: Teller) -> None:
    run.start()
    run.wait(1.0)
    run.by_client(c.RequestCancel(by="client", why=ASKED))
    run.by_worker(0.01, run.broken_off(CANCELLED), c.CancelRun(attempt=run.attempt))
    run.release()


def cancelled_in_the_queue(run: Teller) -> None:
    run.wait(0.5)
    run.by_client(c.RequestCancel(by="client", why=ASKED))
    run.release()


def failed(run: Teller) -> None:
    run.start()
    run.by_worker(1.0, run.asked_for_a_tool())
    failure = c.FailRun(attempt=run.attempt, code="workspace_lost", sentence=WORKSPACE_LOST)
    run.by_worker(0.1, failure)
    run.release()


def under_way(run: Teller) -> None:
    """Its worker is at it, or was lost: whoever takes it over goes on."""
    run.start()


Life = Callable[[Teller], None]
MIX: Final[tuple[tuple[Life, int, int], ...]] = (
    (plain, 54, 8),
    (with_a_tool, 30, 11),
    (taken_over, 4, 10),
    (cancelled, 4, 9),
    (cancelled_in_the_queue, 2, 4),
    (failed, 6, 9),
)
"""What a run's life is, how many of a hundred are so, and how many events one has."""
EVENTS_OF: Final[dict[Life, int]] = {life: events for life, _, events in MIX} | {under_way: 4}
HUNDRED: Final[tuple[Life, ...]] = tuple(life for life, count, _ in MIX for _ in range(count))


def tell(life: Life, run: Teller) -> list[Said]:
    run.request()
    life(run)
    return run.said
