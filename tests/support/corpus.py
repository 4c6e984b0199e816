"""How files of `tests/domain/history` are made: stories told to a log whose data key is known.

usage: .venv/bin/python -m tests.support.corpus NAME…

Writes `NAME.json`, which must not be there: a file that was released never changes. After a new
tag, change or add a story here, write its file under a name of its own, and run
scripts/release_events.py. The first word of a name is the status that the stream ends in.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args
from uuid import NAMESPACE_URL, UUID, uuid5

from msgspec.structs import replace
from typing_extensions import override

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.frames import cursor_of
from runs_domain.handle import Stream, advanced, append_of, empty
from runs_domain.ids import AccountId, Attempt, ChatId, KeyId, RunId, SessionId, sandbox_name
from runs_domain.layout import LayoutItem
from runs_domain.ports import Context
from runs_domain.run import FIRST_ATTEMPT, decide, evolve
from runs_domain.step import output_part, results
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.memory import MemoryEventLog
from runs_domain.storage.sealing import DataKey, DataKeys
from tests.support.driven import Driven
from tests.support.log_streams import SECRETS

FOLDER: Final = Path(__file__).parents[1] / "domain/history"
KEY: Final = DataKey(bytes(range(32)))
BIG_CHARS: Final = 96 * 1024
EDGES: Final = '\u2028\u2029\u0085\ufeff\u0001\x7f"\\/ 🐈\u200d⬛ e\u0301 \u202ertl \U0010ffff'
"""Line ends that JavaScript knew, an astral family, a combining mark, controls, the last point."""

ALL_CLASSES: Final = e.Usage(
    input_tokens=100,
    cached_input_tokens=20,
    cache_write_tokens=10,
    output_tokens=30,
    reasoning_tokens=5,
)


class _Clock(SystemClock):
    """Stands on the day the corpus was widened, and moves by a moment at each look."""

    def __init__(self) -> None:
        self._at = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)

    @override
    def now(self) -> datetime:
        self._at += timedelta(microseconds=1234)
        return self._at


class KnownKeys(DataKeys):
    """Every account has KEY, until it is destroyed."""

    def __init__(self) -> None:
        self.destroyed = False

    @override
    async def for_sealing(self, account: AccountId) -> DataKey | None:
        return None if self.destroyed else KEY

    @override
    async def for_reading(
        self, accounts: Iterable[AccountId]
    ) -> Mapping[AccountId, DataKey | None]:
        return dict.fromkeys(accounts, None if self.destroyed else KEY)


class Story(Driven):
    """One run. Commands, as a worker gives them; `raw` for what no command makes yet."""

    def __init__(self, name: str) -> None:
        self.keys = KnownKeys()
        log = MemoryEventLog(SECRETS, _Clock())
        log.data_keys = self.keys  # type: ignore[misc]
        self.memory = log
        self.name = name
        run_id = RunId(self.id("run"))
        super().__init__(log, None, run_id, {}, sends=False)  # type: ignore[arg-type]
        self.stream: Stream = empty(run_id)
        self.context = Context(
            actor="worker",
            subject=AccountId(self.id("account")),
            correlation=f"request {name}",
            causation="request 1",
            attempt=FIRST_ATTEMPT,
        )

    def id(self, what: str) -> UUID:
        return uuid5(NAMESPACE_URL, f"corpus/{self.name}/{what}")

    @override
    async def do(self, *commands: c.Command) -> None:
        """In one append, as the driver does where nothing slow lies between."""
        state, events = self.stream.state, []
        for command in commands:
            for event in decide(state, command):
                state = evolve(state, event)
                events.append(event)
        await self.raw(*events)

    async def raw(self, *events: e.Event) -> None:
        append = append_of(self.stream, events, self.context)
        self.stream = advanced(self.stream, await self.memory.append(append))

    async def request(self, **more: Any) -> None:
        values: dict[str, Any] = {
            "account_id": self.context.subject,
            "actor": f"key:{self.id('key')}",
            "chat_id": ChatId(self.id("chat")),
            "session_id": SessionId(self.id("session")),
            "model": "scripted/playbook",
            "request_digest": "ab" * 32,
            "title": "",
            "messages": ({"id": "m1", "role": "user", "parts": [text("Say hello")]},),
        }
        await self.do(c.RequestRun(**(values | more)))

    def provisioned(self, **more: Any) -> c.RecordProvisioned:
        values: dict[str, Any] = {
            "attempt": self.attempt,
            "sandbox": sandbox_name(SessionId(self.id("session"))),
            "provider": "local",
            "state": "named",
            "working_directory": "/home/agent/files",
        }
        return c.RecordProvisioned(**(values | more))

    def mint(self) -> c.MintKey:
        return c.MintKey(
            attempt=self.attempt,
            key_id=KeyId(self.id("run key")),
            secret_version=1,
            ttl_seconds=900,
            scopes=("runs:read", "runs:write"),
        )

    @override
    async def begin(self) -> None:
        await self.request()
        await self.do(self.provisioned(), self.mint(), c.StartRun(attempt=self.attempt))

    async def take_over(self, reason: e.ResumeReason, frames_lost: int = 0) -> None:
        self.attempt = Attempt(self.attempt + 1)
        await self.do(c.ResumeRun(attempt=self.attempt, reason=reason, frames_lost=frames_lost))

    async def step(self, *said: m.ModelEvent, **end: Any) -> None:
        recorder = await self.recorder()
        for one in said:
            recorder.add(one)
        values: dict[str, Any] = {"finish_reason": "stop", "usage": e.Usage(output_tokens=3)} | end
        await self.do(recorder.finish(self.attempt, m.ModelEnd(**values)))

    async def result(self, call: str, output: Any, *, closes: bool) -> None:
        part = next(p for p in self.stream.state.parts if p.get("toolCallId") == call)
        done = output_part(part, output)
        await self.do(results(cursor_of(self.run_id), self.attempt, (done,), closes_step=closes))

    async def over(self, *, found: bool = False, **more: Any) -> None:
        await self.do(c.RecordSandboxReleased(found=found, **more))


def text(value: str) -> e.Json:
    return {"type": "text", "text": value}


def call(index: int, command: str) -> list[m.ModelEvent]:
    return [
        m.ToolInputStart(index=index, name="bash"),
        m.ToolInputDelta(index=index, text='{"command":'),
        m.ToolInputDelta(index=index, text=f'"{command}"}}'),
        m.ToolInput(index=index, input={"command": command}),
    ]


# ------------------------------------------------------------------------------ the stories


async def queued_with_nothing_left_out(story: Story) -> None:
    await story.request(
        artist_id=str(story.id("artist")),
        organization_id=AccountId(story.id("organization")),
        credits_reserved=5,
        retry_of=str(story.id("dead run")),
        title="Scheduled generation",
        metadata={"source": "cron", "nested": {"list": [1, 2.5, None, True]}},
    )
    await story.take_over("lost")
    await story.do(
        story.provisioned(
            state="open",
            skills=("reports", "charts"),
            repository="https://git.example/owner/files",
            items=(
                e.ItemResult(name="reports", ok=True),
                e.ItemResult(name="charts", ok=False, detail="not found"),
            ),
        )
    )


async def running_after_an_interrupted_step(story: Story) -> None:
    """All the kinds of frames that a step may have been cut in."""
    await story.begin()
    await story.step(m.TextDelta(text="one "), m.TextDelta(text="two"), finish_reason="tool-calls")
    recorder = await story.recorder()
    for one in (m.ReasoningDelta(text="hm"), m.TextDelta(text="thr"), *call(0, "true")):
        recorder.add(one)
    await story.take_over("lost", frames_lost=2)
    await story.do(recorder.interrupt(story.attempt, "interrupted: outcome unknown"))
    await story.step(*call(0, "date"), *call(1, "ls"), finish_reason="tool-calls")
    calls = story.stream.state.open_calls
    await story.do(c.StartTools(attempt=story.attempt, call_ids=calls))
    await story.result(calls[1], {"exitCode": 0, "stdout": "a\n"}, closes=False)


async def completed_after_a_handover(story: Story) -> None:
    """Every class of tokens, costs, a commit that was pushed, and a tool's failure."""
    await story.begin()
    said = (m.ReasoningDelta(text="first"), m.TextDelta(text="I look."), *call(0, "ls"))
    await story.step(*said, finish_reason="tool-calls", usage=ALL_CLASSES, cost="0.0012")
    calls = story.stream.state.open_calls
    await story.do(c.StartTools(attempt=story.attempt, call_ids=calls))
    await story.take_over("handover")
    await story.result(calls[0], None, closes=True)
    await story.step(m.TextDelta(text="Done."), cost="0.00000001")
    await story.do(c.CompleteRun(attempt=story.attempt))
    await story.over(found=True, commit="0" * 40, pushed=True)


async def cancelled_before_it_began(story: Story) -> None:
    await story.request()
    await story.do(c.RequestCancel(by=f"key:{story.id('key')}", why="asked by a client"))
    await story.over()


async def cancelled_and_erased_meanwhile(story: Story) -> None:
    """The data key goes while the run is on: what comes after has no content at all."""
    await story.begin()
    await story.step(m.TextDelta(text="before"), finish_reason="tool-calls")
    story.keys.destroyed = True
    await story.step(m.TextDelta(text="after"), finish_reason="tool-calls")
    await story.do(c.RequestCancel(by="worker", why="the account is erased"))
    await story.do(c.CancelRun(attempt=story.attempt))
    await story.over()


async def completed_with_every_letter(story: Story) -> None:
    """Unicode's edges wherever a client, a model or a tool may put them."""
    await story.request(
        title=EDGES,
        metadata={EDGES: [EDGES]},
        messages=({"id": EDGES, "role": "user", "parts": [text(EDGES)], EDGES: {}},),
    )
    await story.do(story.provisioned(), story.mint(), c.StartRun(attempt=story.attempt))
    said = [m.TextDelta(text=letter) for letter in EDGES]
    await story.step(*said, *call(0, "echo 🐈"), finish_reason="tool-calls")
    (only,) = story.stream.state.open_calls
    await story.do(c.StartTools(attempt=story.attempt, call_ids=(only,)))
    await story.result(only, {EDGES: EDGES, "stdout": EDGES}, closes=True)
    await story.step(m.ReasoningDelta(text=EDGES), m.TextDelta(text=EDGES))
    await story.do(c.CompleteRun(attempt=story.attempt))
    await story.over()


async def completed_with_a_big_event(story: Story) -> None:
    await story.begin()
    piece = "0123456789abcdef" * 64
    await story.step(*[m.TextDelta(text=piece)] * (BIG_CHARS // len(piece)))
    await story.do(c.CompleteRun(attempt=story.attempt))
    await story.over()


def ended_by(reason: e.FinishReason) -> "Tell":
    async def told(story: Story) -> None:
        await story.begin()
        await story.step(m.TextDelta(text="a"), finish_reason=reason)
        await story.do(c.CompleteRun(attempt=story.attempt))
        await story.over()

    return told


def failed_with(code: e.FailureCode) -> "Tell":
    async def told(story: Story) -> None:
        await story.begin()
        sentence = "The model refused the request"
        await story.do(c.FailRun(attempt=story.attempt, code=code, sentence=sentence))
        await story.over()

    return told


def charged(status: str) -> "Tell":
    """What no command makes before there are credits, and metadata of a frame."""

    async def told(story: Story) -> None:
        await story.begin()
        await story.step(m.TextDelta(text="a"), finish_reason="tool-calls", usage=ALL_CLASSES)
        await story.step(m.TextDelta(text="b"))
        (ending,) = decide(story.stream.state, c.CompleteRun(attempt=story.attempt))[:1]
        assert isinstance(ending, e.Completed)
        same: dict[str, Any] = {"usage": ending.usage, "cost": "1.25", "credits_charged": 2}
        ends: dict[str, e.Event] = {
            "completed": e.Completed(finish_reason="stop", **same),
            "failed": e.Failed(code="internal", sentence="It broke", **same),
            "cancelled": e.Cancelled(**same),
        }
        revoked = e.KeyRevoked(key_id=story.mint().key_id)
        if status == "cancelled":
            await story.do(c.RequestCancel(by="operator", why="stopped by hand"))
        await story.raw(ends[status], revoked)
        await story.over()

    return told


async def completed_without_a_word(story: Story) -> None:
    await story.begin()
    await story.step(usage=e.Usage(input_tokens=7))
    await story.do(c.CompleteRun(attempt=story.attempt))
    await story.over()


async def completed_with_frames_metadata(story: Story) -> None:
    await story.begin()
    recorder = await story.recorder()
    recorder.add(m.TextDelta(text="a"))
    step = recorder.finish(
        story.attempt, m.ModelEnd(finish_reason="stop", usage=e.Usage(output_tokens=1))
    )
    first, *others = step.layout
    noted = LayoutItem(first.frame, first.part, metadata={"provider": {"id": "x"}})
    await story.do(replace(step, layout=(noted, *others)))
    await story.do(c.CompleteRun(attempt=story.attempt))
    await story.over()


Tell: TypeAlias = Callable[[Story], Awaitable[None]]

STORIES: Final[Mapping[str, Tell]] = {
    **{
        tell.__name__: tell
        for tell in (
            queued_with_nothing_left_out,
            running_after_an_interrupted_step,
            completed_after_a_handover,
            cancelled_before_it_began,
            cancelled_and_erased_meanwhile,
            completed_with_every_letter,
            completed_with_a_big_event,
            completed_without_a_word,
            completed_with_frames_metadata,
        )
    },
    **{
        f"completed_by_{reason.replace('-', '_')}": ended_by(reason)
        for reason in get_args(e.FinishReason)
        if reason not in ("stop", "tool-calls")
    },
    **{f"failed_{code}": failed_with(code) for code in get_args(e.FailureCode)},
    **{f"{status}_and_charged": charged(status) for status in ("completed", "failed", "cancelled")},
}


async def written(name: str) -> bytes:
    """The file's bytes: a JSON list of the events as they are stored, one a line."""
    story = Story(name)
    await STORIES[name](story)
    return b"[\n" + b",\n".join(row.state for row in story.memory.stored(story.run_id)) + b"\n]\n"


def main(names: Sequence[str]) -> None:
    for name in names:
        if name not in STORIES:
            sys.exit(f"there is no story {name}; there are {', '.join(STORIES)}")
        try:
            with (FOLDER / f"{name}.json").open("xb") as file:
                file.write(asyncio.run(written(name)))
        except FileExistsError:
            sys.exit(f"{name}.json is there already, and files never change")


if __name__ == "__main__":
    main(sys.argv[1:])
