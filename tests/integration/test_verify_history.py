"""Tampering with the log by plain SQL, as its owner, is found, and by the check meant for it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from runs_domain import proof_shapes as shapes
from runs_domain.proof import Fault, StreamProof
from runs_domain.proof_rules import ClearRules
from runs_domain.storage import history_check
from tests.support.servers import create_database, drop_database
from tests.support.tampering import Log
from workers.stack.servers import Servers

Tamper = Callable[[Log], object]
Hit = tuple[str, int, str]
"""Which run, which version, what kind."""


@pytest.fixture(scope="module")
def kept(servers: Servers) -> Iterator[Log]:
    database = create_database(servers)
    with ExitStack() as connections:
        yield Log(database, connections)
    drop_database(servers, database)


@pytest.fixture
def log(kept: Log) -> Iterator[Log]:
    yield kept
    kept.put_right()


def hits(log: Log) -> set[Hit]:
    names = {str(log.done): "done", str(log.cut): "cut", str(log.live): "live"}
    return {(names[one.run_id], one.version, one.kind) for one in log.faults()}


def events(sql: str, run: str = "done") -> Tamper:
    """A statement about the events of a run."""
    return lambda log: log.as_owner(
        f"{sql.replace('WHERE', 'WHERE originator_id = %s AND')}", getattr(log, run)
    )


def head(sql: str, run: str = "done") -> Tamper:
    return lambda log: log.as_owner(f"{sql} WHERE run_id = %s", getattr(log, run))


def edit(version: int, before: str, after: str) -> Tamper:
    return lambda log: log.edit(log.done, version, before, after)


def rewrite(change: Callable[[list[Any]], None], run: str = "done") -> Tamper:
    return lambda log: log.rewrite(getattr(log, run), change)


def swap(log: Log) -> None:
    log.as_owner(
        """UPDATE stored_events AS one SET (topic, state) = (other.topic, other.state)
        FROM stored_events AS other
        WHERE one.originator_id = other.originator_id AND one.originator_id = %s
            AND one.originator_version IN (2, 3) AND other.originator_version IN (2, 3)
            AND one.originator_version <> other.originator_version""",
        log.done,
    )


def insert(log: Log) -> None:
    """The third event once more, the later ones one place on."""
    for sql in (
        """UPDATE stored_events SET originator_version = -originator_version - 1
        WHERE originator_id = %s AND originator_version > 3""",
        """UPDATE stored_events SET originator_version = -originator_version
        WHERE originator_id = %s AND originator_version < 0""",
        """INSERT INTO stored_events (originator_id, originator_version, topic, state)
        SELECT originator_id, 4, topic, state FROM stored_events
        WHERE originator_id = %s AND originator_version = 3""",
    ):
        log.as_owner(sql, log.done)


def move(log: Log) -> None:
    """The last event of one run becomes the last one of another."""
    log.as_owner(
        "UPDATE stored_events SET originator_id = %s, originator_version = 5"
        " WHERE originator_id = %s AND originator_version = 8",
        *(log.live, log.done),
    )


def change(version: int, **fields: Any) -> Callable[[list[Any]], None]:
    """Of an event's data, or of its envelope if it has such a field."""

    def changed(envelopes: list[Any]) -> None:
        one = envelopes[version - 1]
        for name, value in fields.items():
            (one if name in one else one["data"])[name] = value

    return changed


def strangers(envelopes: list[Any]) -> None:
    envelopes[3]["subject"] = "01900000-0000-7000-8000-0000000000ff"


def no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamProof, "_chained", lambda *_: None)


def no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamProof, "_of_row", lambda *_: None)


def no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_check, "_against", lambda proof, _: proof.end())


def no_row_and_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    no_row(monkeypatch)
    no_head(monkeypatch)


def no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes each version for the next one."""
    whole = StreamProof._wrong

    def numbered(self: StreamProof, version: int, *rest: Any) -> Any:
        self._next = version
        return whole(self, version, *rest)

    monkeypatch.setattr(StreamProof, "_wrong", numbered)


def without(owner: type, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, lambda *_, **__: None)


def no_strays(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: Any, *, before: bytes | None) -> Iterator[Fault]:
        while self._head is not None and (before is None or self._head[0] < before):
            self._head = next(self._heads, None)
        return iter(())

    monkeypatch.setattr(history_check._Merge, "_strays", silent)


def no_rule_for(tag: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setitem(ClearRules._STEPS, tag, lambda *_: None)


no_end = without(StreamProof, "end")
no_rules = without(ClearRules, "_in_order")

TAMPERING: dict[str, tuple[Tamper, set[Hit], Callable[[pytest.MonkeyPatch], None]]] = {
    "a changed byte in the middle": (
        edit(2, "/workspace", "/elsewhere"),
        {("done", 2, "chain")},
        no_doubt,
    ),
    "a changed byte in the last event": (
        edit(8, '"found":false', '"found":true '),
        {("done", 8, "head")},
        no_head,
    ),
    "a changed byte that breaks the JSON": (
        edit(3, '"type":', '"type";'),
        {("done", 3, "bytes")},
        without(StreamProof, "_wrong"),
    ),
    "a removed event": (
        events("DELETE FROM stored_events WHERE originator_version = 3"),
        {("done", 4, "version")},
        no_version,
    ),
    "the first event removed": (
        events("DELETE FROM stored_events WHERE originator_version = 1"),
        {("done", 2, "version")},
        no_version,
    ),
    "the last event removed": (
        events("DELETE FROM stored_events WHERE originator_version = 8"),
        {("done", 7, "head")},
        no_head,
    ),
    "two events swapped": (swap, {("done", 2, "row")}, no_row),
    "an event inserted": (insert, {("done", 4, "row")}, no_row),
    "an event moved to another run": (
        move,
        {("done", 7, "head"), ("live", 5, "row")},
        no_row_and_no_head,
    ),
    "an event moved to another account, all hashes anew": (
        rewrite(strangers),
        {("done", 4, "subject")},
        without(ClearRules, "_whose"),
    ),
    "an event removed, all hashes anew": (
        rewrite(lambda envelopes: envelopes.pop(1)),
        {("done", 2, "transition")},
        no_rule_for(shapes.KEY_MINTED),
    ),
    "two events swapped, all hashes anew": (
        rewrite(lambda envelopes: envelopes.insert(1, envelopes.pop(2))),
        {("done", 2, "transition")},
        no_rule_for(shapes.KEY_MINTED),
    ),
    "an event inserted, all hashes anew": (
        rewrite(lambda envelopes: envelopes.insert(2, envelopes[1])),
        {("done", 3, "transition")},
        no_rule_for(shapes.PROVISIONED),
    ),
    "an end put in before the end": (
        rewrite(lambda envelopes: envelopes.insert(4, envelopes[5])),
        {("done", 5, "transition")},
        no_rule_for(shapes.COMPLETED),
    ),
    "other tokens charged, all hashes anew": (
        rewrite(change(6, usage={"outputTokens": 999})),
        {("done", 6, "totals")},
        without(ClearRules, "_ended"),
    ),
    "another attempt, all hashes anew": (
        rewrite(change(5, attempt=2)),
        {("done", 5, "attempt")},
        without(ClearRules, "_held"),
    ),
    "an earlier time, all hashes anew": (
        rewrite(change(5, at="2020-01-01T00:00:00.000000Z")),
        {("done", 5, "time")},
        without(StreamProof, "_timed"),
    ),
    "a time that is none, all hashes anew": (
        rewrite(change(5, at="2999-02-30T00:00:00.000000Z")),
        {("done", 5, "envelope")},
        without(StreamProof, "_timed"),
    ),
    "a field left out, all hashes anew": (
        rewrite(lambda envelopes: envelopes[2]["data"].pop("ttlSeconds")),
        {("done", 3, "data")},
        without(StreamProof, "_meant"),
    ),
    "content taken out, all hashes anew": (
        rewrite(change(1, sealed="")),
        {("done", 1, "envelope")},
        no_rule_for(shapes.REQUESTED),
    ),
    "content spoilt, all hashes anew": (
        rewrite(change(5, sealed="AAAA")),
        {("done", 5, "envelope")},
        lambda monkeypatch: monkeypatch.setattr("runs_domain.proof_rules._sealed", lambda *_: None),
    ),
    "content where there is none, all hashes anew": (
        rewrite(lambda envelopes: envelopes[3].update(sealed="A" * 64)),
        {("done", 4, "envelope")},
        lambda monkeypatch: monkeypatch.setattr("runs_domain.proof_rules._sealed", lambda *_: None),
    ),
    "content that is no base64, all hashes anew": (
        rewrite(lambda envelopes: envelopes[0].update(sealed="%" * 64)),
        {("done", 1, "envelope")},
        lambda monkeypatch: monkeypatch.setattr("runs_domain.proof_rules._sealed", lambda *_: None),
    ),
    "content that is too short, all hashes anew": (
        rewrite(lambda envelopes: envelopes[0].update(sealed="A" * 38 + "==")),
        {("done", 1, "envelope")},
        lambda monkeypatch: monkeypatch.setattr("runs_domain.proof_rules._sealed", lambda *_: None),
    ),
    "a type that is none, all hashes anew": (
        rewrite(lambda envelopes: envelopes[3].update(type="Some text")),
        {("done", 4, "envelope")},
        without(StreamProof, "_meant"),
    ),
    "an actor left out, all hashes anew": (
        rewrite(lambda envelopes: envelopes[3].pop("actor")),
        {("done", 4, "envelope")},
        without(StreamProof, "_wrong"),
    ),
    "an odd field in the envelope, all hashes anew": (
        rewrite(lambda envelopes: envelopes[3].update(more=1)),
        {("done", 4, "envelope")},
        without(StreamProof, "_wrong"),
    ),
    "a subject that is none, all hashes anew": (
        rewrite(lambda envelopes: [one.update(subject="nobody") for one in envelopes]),
        {("done", 1, "envelope")},
        without(ClearRules, "_whose"),
    ),
    "the revocation of the key left out, all hashes anew": (
        rewrite(lambda envelopes: envelopes.pop(6)),
        {("done", 7, "transition")},
        no_rules,
    ),
    "a stream that stops inside an append, head and all": (
        rewrite(lambda envelopes: envelopes.__delitem__(slice(6, None))),
        {("done", 6, "tail")},
        no_end,
    ),
    "a changed topic": (
        events("UPDATE stored_events SET topic = 'run.started.v1' WHERE originator_version = 3"),
        {("done", 3, "row")},
        no_row,
    ),
    "a topic taken out": (
        events("UPDATE stored_events SET topic = NULL WHERE originator_version = 3"),
        {("done", 3, "row")},
        without(StreamProof, "take"),
    ),
    "bytes taken out": (
        events("UPDATE stored_events SET state = NULL WHERE originator_version = 3"),
        {("done", 3, "row")},
        without(StreamProof, "take"),
    ),
    "a changed version": (
        events("UPDATE stored_events SET originator_version = 99 WHERE originator_version = 8"),
        {("done", 99, "version")},
        no_version,
    ),
    "a changed position": (
        events("UPDATE stored_events SET notification_id = 9999 WHERE originator_version = 3"),
        {("done", 4, "position")},
        without(StreamProof, "_placed"),
    ),
    "a head with another hash": (
        head("UPDATE run_heads SET head_hash = sha256('x')"),
        {("done", 8, "head")},
        no_head,
    ),
    "a head with another version": (
        head("UPDATE run_heads SET version = 7"),
        {("done", 8, "head")},
        no_head,
    ),
    "a head of another account": (
        head("UPDATE run_heads SET account_id = run_id"),
        {("done", 8, "head")},
        no_head,
    ),
    "a head of another chat": (
        head("UPDATE run_heads SET chat_id = run_id"),
        {("done", 8, "head")},
        no_head,
    ),
    "a head of another session": (
        head("UPDATE run_heads SET session_id = chat_id"),
        {("done", 8, "head")},
        no_head,
    ),
    "a head with another status": (
        head("UPDATE run_heads SET status = 'failed'"),
        {("done", 8, "head")},
        no_head,
    ),
    "a head that is live no more": (
        head("UPDATE run_heads SET live = false", "live"),
        {("live", 4, "head")},
        no_head,
    ),
    "a head that is open again": (
        head("UPDATE run_heads SET open = true"),
        {("done", 8, "head")},
        no_head,
    ),
    "a head requested elsewhere": (
        head("UPDATE run_heads SET requested_position = 12345"),
        {("done", 8, "head")},
        no_head,
    ),
    "a head of another time": (
        head("UPDATE run_heads SET updated_at = updated_at + interval '1 second'"),
        {("done", 8, "head")},
        no_head,
    ),
    "a head taken away": (
        head("DELETE FROM run_heads"),
        {("done", 8, "head")},
        without(StreamProof, "refuted"),
    ),
    "a stream taken away": (
        events("DELETE FROM stored_events WHERE true"),
        {("done", 8, "head")},
        no_strays,
    ),
}


def test_a_log_that_nobody_touched_has_no_fault(log: Log) -> None:
    assert hits(log) == set()


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_named_at_its_version_by_the_check_that_is_meant_for_it(
    log: Log, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper, expected, take_out = TAMPERING[name]
    tamper(log)
    assert hits(log) == expected
    take_out(monkeypatch)
    assert not hits(log) & expected


def test_whoever_can_write_everything_is_not_found_by_a_chain_alone(log: Log) -> None:
    """As the help says: a whole run, and a tail that is cut off together with its head."""
    log.as_owner("DELETE FROM stored_events WHERE originator_id = %s", log.done)
    log.as_owner("DELETE FROM run_heads WHERE run_id = %s", log.done)
    log.rewrite(log.cut, lambda envelopes: envelopes.pop())
    log.as_owner(
        """UPDATE run_heads SET open = true,
            updated_at = (convert_from(state, 'UTF8')::jsonb ->> 'at')::timestamptz
        FROM stored_events WHERE run_id = %s
            AND (originator_id, originator_version) = (run_id, version)""",
        log.cut,
    )
    assert hits(log) == set()


def test_an_event_of_a_newer_release_is_no_fault_and_the_rest_is_checked_on(log: Log) -> None:
    def newer(envelopes: list[Any]) -> None:
        envelopes.insert(4, envelopes[4] | {"type": "run.paused.v1", "data": {"any": "thing"}})

    log.rewrite(log.done, newer)
    assert hits(log) == {("done", 5, "unknown")}
    log.edit(log.done, 7, '"outputTokens":1', '"outputTokens":2')
    assert hits(log) == {("done", 5, "unknown"), ("done", 7, "chain")}
