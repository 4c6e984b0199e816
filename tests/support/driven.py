"""A run that a test drives in a worker's place: events to the log, frames to the chunk stream."""

from collections.abc import Sequence
from dataclasses import dataclass

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain import model_port as m
from runs_domain.frames import FrameCursor, advance, cursor_of, encode, frames_of
from runs_domain.handle import handle, load
from runs_domain.ids import Attempt, RunId
from runs_domain.ports import ChunkStream, Context, EventLog
from runs_domain.run import FIRST_ATTEMPT, RunState
from runs_domain.step import StepRecorder
from tests.support import builders as b

USAGE = e.Usage(input_tokens=3, output_tokens=2)


@dataclass
class Driven:
    log: EventLog
    chunks: ChunkStream
    run_id: RunId
    accepted: dict[str, str]
    """The body of its 202."""
    sends: bool = True
    """False: no frame reaches the chunk stream, as without Redis."""
    attempt: Attempt = FIRST_ATTEMPT

    @property
    def path(self) -> str:
        return f"/api/chat/runs/{self.run_id}"

    @property
    def chat_id(self) -> str:
        return self.accepted["chatId"]

    async def state(self) -> RunState:
        return (await load(self.log, self.run_id)).state

    async def do(self, *commands: c.Command) -> None:
        for command in commands:
            subject = (await self.log.read(self.run_id))[0].subject
            context = Context(
                actor="worker",
                subject=subject,
                correlation="test",
                causation="test",
                attempt=self.attempt,
            )
            await handle(self.log, self.run_id, command, context)
            if self.sends:
                await self.send_committed()

    async def frames(self) -> list[bytes]:
        """All committed frames, encoded."""
        stream = await self.log.read(self.run_id)
        return [encode(frame) for frame in frames_of(self.run_id, [one.event for one in stream])]

    async def cursor(self) -> FrameCursor:
        cursor = cursor_of(self.run_id)
        for one in await self.log.read(self.run_id):
            _, cursor = advance(cursor, one.event)
        return cursor

    async def send_committed(self) -> None:
        frames = await self.frames()
        sent = await self.chunks.next_index(self.run_id) or 0
        if frames[sent:]:
            await self._send(sent, frames[sent:])

    async def begin(self) -> None:
        await self.do(b.provisioned(self.attempt), b.mint_key(self.attempt), b.start(self.attempt))

    async def recorder(self) -> StepRecorder:
        state = await self.state()
        return StepRecorder(self.run_id, await self.cursor(), len(state.parts))

    async def stream_text(self, recorder: StepRecorder, text: str) -> list[bytes]:
        """A delta that goes out before its event."""
        frames = [encode(frame) for frame in recorder.add(m.TextDelta(text=text))]
        index = await self.chunks.next_index(self.run_id) or 0
        await self._send(index, frames)
        return frames

    async def _send(self, index: int, frames: Sequence[bytes]) -> None:
        fence = await self.chunks.raise_attempt(self.run_id, self.attempt)
        await self.chunks.write(self.run_id, fence, index, frames)

    async def persist(self, recorder: StepRecorder, *, reason: e.FinishReason = "stop") -> None:
        end = m.ModelEnd(finish_reason=reason, usage=USAGE)
        await self.do(recorder.finish(self.attempt, end))

    async def say(self, text: str = "hello", *, reason: e.FinishReason = "stop") -> None:
        """A whole model step, streamed a word a delta."""
        recorder = await self.recorder()
        for word in text.split(" "):
            recorder.add(m.TextDelta(text=word))
        await self.persist(recorder, reason=reason)

    async def complete(self, text: str = "hello") -> None:
        """The rest of a run that says `text`, to its terminal event."""
        await self.begin()
        await self.say(text)
        await self.do(c.CompleteRun(attempt=self.attempt))
