"""Load, decide, append; what happens when others are faster."""

import pytest
from msgspec.structs import replace
from typing_extensions import override

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.errors import RunNotFound, VersionConflict
from runs_domain.handle import CONFLICT_TRIES_MAX, advanced, append_of, empty, handle, load
from runs_domain.ids import Attempt, RunId, Version
from runs_domain.ports import BEFORE_FIRST, Append, Recorded
from runs_domain.storage.identity import SystemClock
from runs_domain.storage.memory import MemoryEventLog
from tests.support.log_streams import SECRETS, Run

CANCEL = c.RequestCancel(by="key:1", why="asked")


class RivalLog(MemoryEventLog):
    """Before each of the next `rivals` appends, a rival appends to the same stream."""

    def __init__(self) -> None:
        super().__init__(SECRETS, SystemClock())
        self.rivals = 0
        self.read_after: list[Version] = []

    @override
    async def read(self, run_id: RunId, *, after: Version = BEFORE_FIRST) -> tuple[Recorded, ...]:
        self.read_after.append(after)
        return await super().read(run_id, after=after)

    @override
    async def append(self, append: Append) -> tuple[Recorded, ...]:
        if self.rivals > 0:
            self.rivals -= 1
            stream = advanced(empty(append.run_id), await super().read(append.run_id))
            resumed = e.Resumed(attempt=Attempt(stream.state.attempt + 1), reason="handover")
            await super().append(append_of(stream, [resumed], append.context))
        return await super().append(append)


async def test_a_command_is_decided_again_on_what_a_rival_left() -> None:
    log = RivalLog()
    run = Run(log)
    await run.start()
    log.rivals = CONFLICT_TRIES_MAX - 1
    handled = await handle(log, run.run_id, CANCEL, run.context)

    assert [one.version for one in handled.recorded] == [4 + CONFLICT_TRIES_MAX]
    assert handled.recorded[0].attempt == CONFLICT_TRIES_MAX
    newest = range(4, 4 + CONFLICT_TRIES_MAX - 1)
    assert log.read_after == [BEFORE_FIRST, *newest], "a long history is read once"
    assert handled.stream == await load(log, run.run_id)


async def test_a_cancel_gets_through_while_a_worker_appends_step_after_step() -> None:
    """The number is what a cancel must bear, not how often it happens to be tried."""
    log = RivalLog()
    run = Run(log)
    await run.start()
    log.rivals = 20

    await handle(log, run.run_id, CANCEL, run.context)

    assert log.rivals == 0
    assert (await load(log, run.run_id)).state.cancel_requested


async def test_a_command_that_always_comes_late_is_refused_in_the_end() -> None:
    log = RivalLog()
    run = Run(log)
    await run.start()
    log.rivals = CONFLICT_TRIES_MAX

    with pytest.raises(VersionConflict):
        await handle(log, run.run_id, CANCEL, run.context)
    assert not (await load(log, run.run_id)).state.cancel_requested


async def test_a_command_that_changes_nothing_appends_nothing() -> None:
    log = RivalLog()
    run = Run(log)
    await run.finish()

    assert (await handle(log, run.run_id, CANCEL, run.context)).recorded == ()
    assert len(await log.read(run.run_id)) == 8


async def test_an_unknown_run_is_not_found() -> None:
    log = RivalLog()
    run = Run(log)

    with pytest.raises(RunNotFound):
        await handle(log, run.run_id, CANCEL, run.context)


async def test_the_envelope_s_attempt_is_the_one_that_the_events_leave() -> None:
    run = Run(RivalLog())
    await run.start()
    context = replace(run.context, attempt=Attempt(99))
    resumed = e.Resumed(attempt=Attempt(2), reason="lost")

    assert append_of(run.stream, [resumed], context).context.attempt == 2
    with pytest.raises(RunNotFound):
        append_of(empty(run.run_id), [resumed], context)
