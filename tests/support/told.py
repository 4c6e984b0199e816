"""Histories as somebody could have written them who knows how the chain is made."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st
from msgspec.structs import replace
from typing_extensions import override

from runs_domain import commands as c
from runs_domain import events as e
from runs_domain.errors import InvalidCommand, Refused, RunEnded, RunNotFound, StaleAttempt
from runs_domain.ids import AccountId, Attempt, RunId, Version, chain_start
from runs_domain.ports import Append, Context, Position, Recorded
from runs_domain.proof import Fault, StreamProof, hash_of, strict_json
from runs_domain.run import INITIAL, decide, evolve, fold
from runs_domain.storage import codec
from runs_domain.storage.codec import StoredRow
from runs_domain.storage.sealing import DataKey
from tests.support.builders import ACCOUNT, CHAT, RUN, SESSION
from tests.support.histories import History, legal_command, random_command
from tests.support.recorded import BEGINNING

KEY = DataKey(bytes(range(32)))


class Told(NamedTuple):
    """An event and the envelope around it, but for what the chain makes of it."""

    event: e.Event
    append: int
    """Events of one append have one time."""
    attempt: Attempt = Attempt(1)
    actor: str = "worker:1"
    subject: AccountId = ACCOUNT


class ToldHistory(History):
    """Keeps which events were appended together, and by whom."""

    def __init__(self, data: st.DataObject) -> None:
        self.told: list[Told] = []
        super().__init__(data)

    @override
    def attempt(self, command: c.Command) -> bool:
        before = len(self.events)
        accepted = super().attempt(command)
        append = self.told[-1].append + 1 if self.told else 1
        attempt = self.state.attempt
        self.told += [
            Told(event, append, attempt, f"worker:{attempt}") for event in self.events[before:]
        ]
        return accepted


def made_up(data: st.DataObject, commands_max: int = 25) -> list[Told]:
    """A history that `decide` allows, of at least one event."""
    history = ToldHistory(data)
    for _ in range(data.draw(st.integers(1, commands_max))):
        maker = data.draw(st.sampled_from([legal_command, legal_command, random_command]))
        history.attempt(maker(data, history))
    return history.told


def made_up_and_erased(data: st.DataObject) -> tuple[list[Told], int]:
    """One whose account was erased under way, and how many of its events came before: who went on
    knew nothing of what they said.
    """
    history = ToldHistory(data)
    for _ in range(data.draw(st.integers(1, 10))):
        history.attempt(legal_command(data, history))
    before = len(history.told)
    history.state = fold([_outline(event) for event in history.events])
    for _ in range(data.draw(st.integers(1, 15))):
        maker = data.draw(st.sampled_from([legal_command, legal_command, random_command]))
        history.attempt(maker(data, history))
        history.state = fold([_outline(event) for event in history.events])
    return history.told, before


def _outline(event: e.Event) -> e.Event:
    match event:
        case e.Requested():
            return replace(event, title="", messages=(), metadata=None)
        case e.MessagePersisted():
            return replace(event, parts=(), layout=())
        case _:
            return event


def stored(
    told: Sequence[Told], *, run_id: RunId = RUN, erased_after: int | None = None
) -> list[StoredRow]:
    """The rows, chained from the first to the last; content is sealed up to `erased_after`."""
    rows: list[StoredRow] = []
    prev = chain_start(run_id)
    for place, one in enumerate(told):
        context = Context(
            actor=one.actor,
            subject=one.subject,
            correlation="correlation-1",
            causation="request-1",
            attempt=one.attempt,
        )
        append = Append(
            run_id=run_id,
            expected_version=Version(place),
            prev=prev,
            events=(one.event,),
            context=context,
            account_id=one.subject,
            chat_id=CHAT,
            session_id=SESSION,
            status="running",
            live=True,
            open=True,
        )
        erased = erased_after is not None and place >= erased_after
        (pieces,) = codec.encode(append, None if erased else KEY)
        state = pieces.join(BEGINNING + timedelta(seconds=one.append), prev)
        prev = hash_of(state)
        rows.append(StoredRow(run_id, Version(place + 1), pieces.tag, state, Position(place + 1)))
    return rows


def first_fault(rows: Sequence[StoredRow], *, decode: Any = strict_json) -> Fault | None:
    """With the head that an honest append would have left. An `unknown` counts if nothing else."""
    proof = StreamProof(str(rows[0].run_id), decode=decode)
    unknown = None
    for row in rows:
        fault = proof.take(row.version, row.tag, row.state, position=row.position)
        if fault is not None and fault.kind != "unknown":
            return fault
        unknown = unknown or fault
    return proof.end(rows[-1].version, hash_of(rows[-1].state)) or unknown


def recorded_of(rows: Sequence[StoredRow]) -> list[Recorded]:
    return [codec.decode(row, codec.open_row(row), KEY) for row in rows]


# ------------------------------------------------------------------------------ the oracle


def refusals(told: Sequence[Told]) -> list[str]:
    """Why `decide` would not have made this history, whatever the commands; none = it would.

    Each event, or as many as one command makes, is asked for by the command that says the same.
    """
    state, place = INITIAL, 0
    while place < len(told):
        reasons = []
        for command in _commands_for(told, place):
            try:
                made = decide(state, command)
            except (Refused, RunEnded, RunNotFound, StaleAttempt, InvalidCommand) as error:
                reasons.append(str(error))
                continue
            rest = told[place : place + len(made)]
            reason = _difference(made, rest)
            if reason is None:
                for one in made:
                    state = evolve(state, one)
                if any(one.attempt != state.attempt for one in rest):
                    return ["by an attempt that does not hold the run"]
                place += len(made)
                break
            reasons.append(reason)
        else:
            return reasons or ["no command makes it"]
    return []


def _difference(made: Sequence[e.Event], rest: Sequence[Told]) -> str | None:
    if not made:
        return "nothing to do"
    if list(made) == [one.event for one in rest]:
        return None if len({one.append for one in rest}) == 1 else "not in one append"
    if isinstance(made[0], e.MessagePersisted) and not isinstance(rest[0].event, type(made[0])):
        return "a call is left open"
    pairs = list(zip(made, (one.event for one in rest), strict=False))
    if len(pairs) == len(made) and all(
        ours == theirs
        or (isinstance(ours, e.MessagePersisted) and isinstance(theirs, e.MessagePersisted))
        for ours, theirs in pairs
    ):
        return "parts of another message"
    return "other events"


COMMANDS: Final[Mapping[type[e.Event], Any]] = {
    e.Requested: c.RequestRun,
    e.Resumed: c.ResumeRun,
    e.Provisioned: c.RecordProvisioned,
    e.KeyMinted: c.MintKey,
    e.Started: c.StartRun,
    e.ToolStarted: c.StartTools,
    e.CancelRequested: c.RequestCancel,
    e.MessagePersisted: c.PersistMessage,
    e.Completed: c.CompleteRun,
    e.Failed: c.FailRun,
    e.Cancelled: c.CancelRun,
    e.SandboxReleased: c.RecordSandboxReleased,
}


def _commands_for(told: Sequence[Told], place: int) -> Iterator[c.Command]:
    """By which this event may have come; an end begins with what it closes."""
    yield from _command(told[place].event, told[place])
    ends = [one.event for one in told[place + 1 : place + 2] if isinstance(one.event, e.Ending)]
    if isinstance(told[place].event, e.MessagePersisted) and ends:
        yield from _command(ends[0], told[place])


def _command(event: Any, by: Told) -> Iterator[c.Command]:
    kind = COMMANDS.get(type(event))
    if kind is not None:
        said = {name: getattr(event, name, by.attempt) for name in kind.__struct_fields__}
        yield kind(**said)
