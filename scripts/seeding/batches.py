"""Batches of runs that overlap, as the rows that are copied in.

A batch is a stretch of the log: its positions and its times come after those of the batch before,
so that batches can be made by several processes and committed in order.
"""

from collections.abc import Mapping
from random import Random
from typing import Final, NamedTuple
from uuid import UUID

from seeding.plan import RUNS_A_BATCH, SECONDS_BETWEEN_RUNS, Plan
from seeding.rows import event_head, event_tail, head_row, key_row
from seeding.stories import EVENTS_OF, KEY_TTL_SECONDS, MICROSECONDS, Ids, Life
from seeding.templates import AT, PREV, AppendForm, RunForm, fill, form_of, time_of, values_of

from runs_domain.ids import AccountId, ChatId, RunId, SessionId, chain_start, run_key_id
from runs_domain.ports import KeyIssuer, KeyRow
from runs_domain.scopes import RUN_KEY_SCOPES
from runs_domain.storage.codec import time_text
from runs_domain.storage.identity import uuid7_at
from runs_domain.storage.sealing import DataKey

FORMS_A_LIFE: Final = 16
"""Runs of one kind differ in tokens, workers and pauses in so many ways."""


class Rows(NamedTuple):
    """One batch, as three tables take it."""

    runs: int
    events: int
    stored_events: bytes
    run_heads: bytes
    api_keys: bytes


class BatchMaker:
    """Makes the same of the same plan in any process, but for the sealing."""

    def __init__(
        self, plan: Plan, issuer: KeyIssuer, data_keys: Mapping[AccountId, DataKey]
    ) -> None:
        chance = Random(f"{plan.seed}:forms")  # noqa: S311 - no secret
        self._plan = plan
        self._issuer = issuer
        self._data_keys = data_keys
        self._forms: dict[Life, list[RunForm]] = {
            life: [form_of(life, chance, issuer, plan) for _ in range(FORMS_A_LIFE)]
            for life in EVENTS_OF
        }
        self._words = plan.words
        self._actors = [f"key:{plan.account_key(number)}" for number in range(plan.accounts)]
        self._accounts = [plan.account(number) for number in range(plan.accounts)]

    def make(self, batch: int) -> Rows:
        plan = self._plan
        chance = Random(f"{plan.seed}:runs:{batch}:{plan.begin}")  # noqa: S311 - no secret
        lives = plan.lives(batch)
        window = int(RUNS_A_BATCH * SECONDS_BETWEEN_RUNS * plan.stretch * MICROSECONDS)
        begins = sorted(plan.begin_of(batch) + chance.randrange(window + 1) for _ in lives)
        runs = [
            self._run(self._forms[life][chance.randrange(FORMS_A_LIFE)], begin, chance)
            for life, begin in zip(lives, begins, strict=True)
        ]
        stored_events = _in_order(runs, plan.position + plan.events_before(batch))
        return Rows(
            runs=len(runs),
            events=sum(run.form.events for run in runs),
            stored_events=stored_events,
            run_heads=b"".join(run.head_row() for run in runs),
            api_keys=b"".join(run.key_row() for run in runs),
        )

    def _run(self, form: RunForm, begin: int, chance: Random) -> "_Run":
        run = _Run(form, self._ids(begin, chance))
        at = chance.randrange(len(self._words) - self._plan.content_bytes)
        values = values_of(run.ids, self._words[at : at + self._plan.content_bytes])
        values[PREV] = chain_start(run.ids.run_id).encode()
        key = self._data_keys[run.ids.account_id]
        version = 0
        for append in form.appends:
            moment = begin + int(append.at * self._plan.stretch)
            values[AT] = time_text(time_of(moment)).encode()
            filled = _Filled(moment, run, [])
            for event in append.events:
                version += 1
                state, run.hash = fill(event, values, version, run.ids.run_id, key)
                values[PREV] = run.hash.hex().encode()
                row = event_head(run.ids.run_id, version, event.tag, state)
                filled.rows.append((row, state))
            run.appends.append(filled)
            self._note(run, append, moment)
        return run

    def _ids(self, begin: int, chance: Random) -> Ids:
        # Few accounts have most of the runs.
        account = int(self._plan.accounts * chance.random() ** 2)
        nanoseconds = begin * 1_000
        return Ids(
            run_id=RunId(uuid7_at(nanoseconds, chance.randbytes(8))),
            chat_id=ChatId(uuid7_at(nanoseconds, chance.randbytes(8))),
            session_id=SessionId(uuid7_at(nanoseconds, chance.randbytes(8))),
            account_id=self._accounts[account],
            actor=self._actors[account],
            request_id=str(UUID(bytes=chance.randbytes(16))),
            digest=chance.randbytes(32).hex(),
        )

    def _note(self, run: "_Run", append: AppendForm, moment: int) -> None:
        run.updated_at = moment
        if append.mints:
            run.minted_at = moment
            run.key = self._issuer.derive(
                run_key_id(run.ids.run_id),
                run.ids.run_id,
                secret_version=self._plan.secret_version,
                ttl_seconds=KEY_TTL_SECONDS,
                scopes=RUN_KEY_SCOPES,
            ).row
        if append.ends and run.revoked_at is None:
            run.revoked_at = moment


class _Run:
    """What a head and a key hold of a run."""

    def __init__(self, form: RunForm, ids: Ids) -> None:
        self.form = form
        self.ids = ids
        self.appends: list[_Filled] = []
        self.hash = b""
        self.first = 0
        """The position of its request."""
        self.updated_at = 0
        self.minted_at = 0
        self.revoked_at: int | None = None
        self.key: KeyRow | None = None

    def head_row(self) -> bytes:
        return head_row(
            self.ids,
            self.form.last,
            version=self.form.events,
            head_hash=self.hash,
            first=self.first,
            at=self.updated_at,
        )

    def key_row(self) -> bytes:
        if self.key is None:
            return b""
        return key_row(self.ids, self.key, self.minted_at, self.revoked_at)


class _Filled(NamedTuple):
    """One append."""

    at: int
    run: _Run
    rows: list[tuple[bytes, bytes]]
    """Each a row up to its state's bytes, and those."""


def _in_order(runs: list[_Run], before: int) -> bytes:
    """The appends of all `runs` as the log would have taken them, after position `before`."""
    position = before
    rows: list[bytes] = []
    appends = [append for run in runs for append in run.appends]
    for append in sorted(appends, key=lambda one: one.at):  # a run's own stay in order
        append.run.first = append.run.first or position + 1
        for row, state in append.rows:
            position += 1
            rows += (row, state, event_tail(position))
    return b"".join(rows)
