"""What erasing an account does to the database, one step a method.

Needs the owner's connection. Each step may be taken again, whatever a process that died before
had done of it; what was cleared is counted in the account's row of `erasures` by the very
statement that clears it.
"""

import hashlib
from datetime import datetime
from typing import Any, Final, Literal

import psycopg
from psycopg.rows import TupleRow

from runs_domain.credentials_port import AccountKind
from runs_domain.errors import RunledgerError
from runs_domain.events import SEALED, Struct
from runs_domain.ids import AccountId, Position, RunId, SessionId
from runs_domain.storage.connection import Connection, Fetches, ReconnectingConnection
from runs_domain.storage.lean_reads import log_end
from runs_domain.storage.redis_names import CHUNKS_LIVE_SECONDS
from runs_domain.upcast import stored_tags

RUNS_PER_PAGE: Final = 1_000
ROWS_PER_DELETE_MAX: Final = 10_000
LOCK_SECONDS_MAX: Final = 0.5
"""How long one try waits for a table's lock, and with it all who come after."""
LOCK_PARAMETERS: Final = {"lock_timeout": f"{LOCK_SECONDS_MAX:g}s"}
"""For the owner's connection."""
REWRITE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of the tables that are written anew, which nobody can read meanwhile: some 120,000 accounts, half
a second."""
CHUNKS_RECENT_SECONDS: Final = 2 * CHUNKS_LIVE_SECONDS
"""A run with no event for this long can have no chunks, and nobody who might still write some."""
NOT_COVERED: Final = (
    "backups, replicas, WAL and its archives: they hold name and wrapped key until they expire",
    "copies of an export that left the data folder, and what clients of the API have kept",
    "what the model's provider keeps of the calls it answered",
    "sandboxes and exports on other hosts: run this there too, with their RUNLEDGER_DATA_DIR",
)
"""For the receipt."""

Counted = Literal["runs_cancelled", "chunk_keys", "export_bundles", "sandboxes"]
"""What is cleared elsewhere than in the database; columns of `erasures`."""

_SUBJECT: Final = """
SELECT kind, (SELECT count(*) FROM run_heads WHERE account_id = %(account)s)
FROM accounts WHERE account_id = %(account)s
"""
_BEGIN: Final = """
INSERT INTO erasures (account_id, asked_by) VALUES (%s, %s)
ON CONFLICT (account_id) DO UPDATE SET finished_at = NULL
RETURNING account_id
"""
# Keys of runs stay: a run that a worker holds never loses its key before it has ended.
_SHUT_OUT: Final = """
WITH keys AS (
    UPDATE api_keys SET revoked_at = now()
    WHERE account_id = %(account)s AND NOT ephemeral AND revoked_at IS NULL RETURNING 1
), members AS (
    UPDATE org_members SET valid_until = now()
    WHERE (org_id = %(account)s OR member_id = %(account)s)
        AND (valid_until IS NULL OR valid_until > now())
    RETURNING 1
), names AS (
    UPDATE accounts SET name = '' WHERE account_id = %(account)s AND name <> '' RETURNING 1
)
UPDATE erasures SET
    keys_revoked = keys_revoked + (SELECT count(*) FROM keys),
    memberships_ended = memberships_ended + (SELECT count(*) FROM members),
    names_cleared = names_cleared + (SELECT count(*) FROM names)
WHERE account_id = %(account)s
RETURNING account_id
"""
_OPEN_RUNS: Final = """
SELECT run_id, session_id, requested_position, live, EXISTS (
    SELECT FROM dead_letters WHERE kind = 'run' AND id = run_id AND withheld)
FROM run_heads WHERE open AND account_id = %s AND requested_position > %s
ORDER BY requested_position LIMIT %s
"""
_RUNS: Final = """
SELECT run_id, session_id, requested_position,
    updated_at > now() - make_interval(secs => %s)
FROM run_heads WHERE account_id = %s AND requested_position > %s
ORDER BY requested_position LIMIT %s
"""
_HEADS: Final = """
SELECT head.run_id, head.requested_position, last.originator_version, sha256(last.state), (
    SELECT count(*) FROM stored_events AS event
    WHERE event.originator_id = head.run_id AND event.notification_id <= %(position)s
        AND event.topic = ANY(%(sealed)s))
FROM run_heads AS head
JOIN LATERAL (
    SELECT originator_version, state FROM stored_events AS event
    WHERE event.originator_id = head.run_id AND event.notification_id <= %(position)s
    ORDER BY originator_version DESC LIMIT 1
) AS last ON true
WHERE head.account_id = %(account)s AND head.requested_position > %(after)s
ORDER BY head.requested_position LIMIT %(limit)s
"""
_HEADS_KNOWN: Final = """
SELECT position, encode(heads_digest, 'hex'), runs, events, sealed_events
FROM erasures WHERE account_id = %s AND position IS NOT NULL
"""
_KEEP_HEADS: Final = """
UPDATE erasures SET position = %s, heads_digest = decode(%s, 'hex'), runs = %s, events = %s,
    sealed_events = %s
WHERE account_id = %s AND position IS NULL
"""
# An account that never had a key gets a destroyed one: otherwise one would be made for it.
_DESTROY: Final = """
INSERT INTO account_data_keys (account_id, wrapped, secret_version, destroyed_at)
VALUES (%s, NULL, %s, clock_timestamp())
ON CONFLICT (account_id) DO UPDATE SET wrapped = NULL, destroyed_at = clock_timestamp()
    WHERE account_data_keys.destroyed_at IS NULL
"""
_IN_CACHES: Final = """
SELECT extract(epoch FROM
    destroyed_at + make_interval(secs => %s) - clock_timestamp())::double precision
FROM account_data_keys WHERE account_id = %s
"""
# The view, and any table that a rebuild is filling to become the view.
_CONTENT_TABLES: Final = """
SELECT class.oid, CASE WHEN space.nspname = current_schema() THEN quote_ident(class.relname)
    ELSE format('%%I.%%I', space.nspname, class.relname) END
FROM pg_class AS class
JOIN pg_namespace AS space ON space.oid = class.relnamespace
WHERE class.relkind = 'r' AND space.nspname NOT LIKE 'pg\\_%%'
    AND (SELECT count(*) FROM pg_attribute AS one
         WHERE one.attrelid = class.oid AND NOT one.attisdropped
             AND one.attname IN ('account_id', 'sealed')) = 2
"""
_COUNT: Final = """
UPDATE erasures SET {column} = {column} + %s WHERE account_id = %s RETURNING account_id
"""
_FINISH: Final = """
UPDATE erasures SET finished_at = clock_timestamp() WHERE account_id = %s RETURNING account_id
"""
_RECORD: Final = """
SELECT account.kind, erasure.asked_by, erasure.asked_at, key.destroyed_at, erasure.finished_at,
    keys_revoked, memberships_ended, names_cleared, runs_cancelled, message_rows, chunk_keys,
    export_bundles, sandboxes
FROM erasures AS erasure
JOIN accounts AS account USING (account_id)
LEFT JOIN account_data_keys AS key USING (account_id)
WHERE account_id = %s
"""
# Who still sees the versions of rows that were replaced: VACUUM must leave those.
_SNAPSHOTS: Final = """
WITH replaced AS (
    SELECT least(
        (SELECT age(xmin) FROM account_data_keys WHERE account_id = %(account)s),
        (SELECT age(xmin) FROM accounts WHERE account_id = %(account)s)) AS age
)
SELECT coalesce(nullif(application_name, ''), 'a client') || ' (pid ' || pid || ')'
FROM pg_stat_activity, replaced
WHERE age(backend_xmin) >= replaced.age AND pid <> pg_backend_pid()
    AND (datname IS NULL OR datname = current_database())
UNION ALL
SELECT 'replication slot ' || slot_name FROM pg_replication_slots, replaced
WHERE age(xmin) >= replaced.age
UNION ALL
SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts, replaced
WHERE age(transaction) >= replaced.age
"""
_REWRITTEN: Final = ("account_data_keys", "accounts")
"""A plain VACUUM frees the space of old row versions and leaves their bytes in it."""
_SIZE: Final = "SELECT sum(pg_table_size(one)) FROM unnest(%s::regclass[]) AS one"
_SEALED_TAGS: Final = stored_tags(SEALED)


class Subject(Struct, frozen=True):
    kind: AccountKind
    runs: int


class OpenRun(Struct, frozen=True):
    run_id: RunId
    session_id: SessionId
    position: Position
    live: bool
    """False: it has ended, and its sandbox is still to be released."""
    withheld: bool
    """Its job breaks, so no worker gets it until its dead letter is dropped or retried."""


class RunPlace(Struct, frozen=True):
    run_id: RunId
    session_id: SessionId
    position: Position
    recent: bool
    """Somebody may have written chunks of it that are still there, or do so yet."""


class Heads(Struct, frozen=True):
    """The account's streams as they stood at `position` of the log."""

    position: Position
    digest: str
    """SHA-256 (hex) over all runs in the order they were requested: the run id's 16 bytes, the
    last version in 8 bytes, big end first, and the SHA-256 of that event's stored bytes."""
    runs: int
    events: int
    sealed_events: int


class Record(Struct, frozen=True):
    """The account's row of `erasures`."""

    kind: AccountKind
    asked_by: str
    asked_at: datetime
    key_destroyed_at: datetime | None
    finished_at: datetime | None
    keys_revoked: int
    memberships_ended: int
    names_cleared: int
    runs_cancelled: int
    message_rows: int
    chunk_keys: int
    export_bundles: int
    sandboxes: int


async def subject_of(owner: Fetches, account: AccountId) -> Subject | None:
    """None: there is no such account. Raises StoreUnavailable."""
    rows = await owner.fetch(_SUBJECT, {"account": account})
    return Subject(kind=rows[0][0], runs=rows[0][1]) if rows else None


class TableBusy(RunledgerError):
    """The message is a sentence for operators."""


class Erasure:
    """Every method raises StoreUnavailable; what it did is then unknown, and may be done again."""

    def __init__(
        self, owner: ReconnectingConnection, patient: ReconnectingConnection, account: AccountId
    ) -> None:
        """Both were made with LOCK_PARAMETERS; `patient` is for what takes minutes."""
        self._owner = owner
        self._patient = patient
        self._account = account

    async def begin(self, by: str) -> None:
        """Put it on record; the first who asked stays on it."""
        await self._owner.fetch(_BEGIN, (self._account, by))

    async def shut_out(self) -> None:
        """Revoke the account's keys, end its memberships of both kinds, clear its name."""
        await self._owner.fetch(_SHUT_OUT, {"account": self._account})

    async def open_runs(self) -> tuple[OpenRun, ...]:
        """All that have yet to end or to release their sandbox, in the order of their requests."""
        names = OpenRun.__struct_fields__
        runs: list[OpenRun] = []
        while True:
            after = runs[-1].position if runs else Position(0)
            page = await self._owner.fetch(_OPEN_RUNS, (self._account, after, RUNS_PER_PAGE))
            runs += [OpenRun(**dict(zip(names, row, strict=True))) for row in page]
            if len(page) < RUNS_PER_PAGE:
                return tuple(runs)

    async def runs_after(self, position: Position) -> tuple[RunPlace, ...]:
        """The next RUNS_PER_PAGE of all runs, in the order of their requests."""
        values = (CHUNKS_RECENT_SECONDS, self._account, position, RUNS_PER_PAGE)
        names = RunPlace.__struct_fields__
        return tuple(
            RunPlace(**dict(zip(names, row, strict=True)))
            for row in await self._owner.fetch(_RUNS, values)
        )

    async def heads(self, position: Position | None = None) -> Heads:
        """From the log's own bytes, as of `position`; by default as of now."""
        if position is None:
            position = await log_end(self._owner)
        digest, after, runs, events, sealed = hashlib.sha256(), 0, 0, 0, 0
        while True:
            values: dict[str, Any] = {
                "account": self._account,
                "position": position,
                "sealed": _SEALED_TAGS,
                "after": after,
                "limit": RUNS_PER_PAGE,
            }
            page = await self._owner.fetch(_HEADS, values)
            for run_id, _, version, state_hash, of_run in page:
                digest.update(run_id.bytes + version.to_bytes(8, "big") + state_hash)
                events, sealed = events + version, sealed + of_run
            runs += len(page)
            if len(page) < RUNS_PER_PAGE:
                break
            after = page[-1][1]
        return Heads(
            position=Position(position),
            digest=digest.hexdigest(),
            runs=runs,
            events=events,
            sealed_events=sealed,
        )

    async def heads_before(self) -> Heads | None:
        """Those that were put on record when the key was destroyed; None: it was not."""
        rows = await self._owner.fetch(_HEADS_KNOWN, (self._account,))
        names = Heads.__struct_fields__
        return Heads(**dict(zip(names, rows[0], strict=True))) if rows else None

    async def destroy_key(self, heads: Heads, secret_version: int) -> None:
        """From the commit on nobody can load the account's data key, and none is made anew."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                kept = (heads.position, heads.digest, heads.runs, heads.events, heads.sealed_events)
                await connection.execute(_KEEP_HEADS, (*kept, self._account))
                await connection.execute(_DESTROY, (self._account, secret_version))

        await self._owner.run(work)

    async def seconds_in_caches(self, cached_seconds: float) -> float:
        """How long a process that keeps a key for `cached_seconds` may still have this one."""
        rows = await self._owner.fetch(_IN_CACHES, (cached_seconds, self._account))
        return max(float(rows[0][0]), 0.0) if rows else 0.0

    async def clear_views(self) -> None:
        """Delete the rows with the account's content. Raises TableBusy: a rebuild is at it."""
        cleared: set[tuple[int, str]] = set()
        # A rebuild that swaps its table in meanwhile gives both other names, and drops one.
        while left := set(await self._owner.fetch(_CONTENT_TABLES)) - cleared:
            for oid, table in sorted(left):
                await self._barrier(table)
                while await self._delete_some(table):
                    pass
                cleared.add((oid, table))

    async def _barrier(self, table: str) -> None:
        """Wait until whoever wrote to the table has committed: what they wrote can be seen then."""
        lock = f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"
        await self._on(table, lock, {}, busy="is being written to")

    async def _delete_some(self, table: str) -> int:
        # `table` was quoted by PostgreSQL itself.
        statement = f"""
            WITH gone AS (
                DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                    SELECT ctid FROM {table} WHERE account_id = %(account)s LIMIT %(limit)s))
                RETURNING 1
            )
            UPDATE erasures SET message_rows = message_rows + (SELECT count(*) FROM gone)
            WHERE account_id = %(account)s RETURNING (SELECT count(*) FROM gone)"""  # noqa: S608
        values = {"account": self._account, "limit": ROWS_PER_DELETE_MAX}
        return sum(count for (count,) in await self._on(table, statement, values, busy="is locked"))

    async def _on(
        self, table: str, statement: str, values: dict[str, Any], *, busy: str
    ) -> list[TupleRow]:
        """Of a table that is gone: nothing."""

        async def work(connection: Connection) -> list[TupleRow] | None:
            try:
                async with connection.transaction():
                    cursor = await connection.execute(statement.encode(), values or None)
                    return await cursor.fetchall() if cursor.description else []
            except psycopg.errors.LockNotAvailable:
                return None
            except psycopg.errors.UndefinedTable:
                return []

        rows = await self._owner.run(work, repeatable=True)
        if rows is None:
            raise TableBusy(f"{table} {busy} for more than {LOCK_SECONDS_MAX:g} s")
        return rows

    async def count(self, what: Counted, more: int) -> None:
        if more:
            await self._owner.fetch(_COUNT.format(column=what), (more, self._account))

    async def snapshots(self) -> tuple[str, ...]:
        """Who keeps the old versions of the account's rows from being removed."""
        rows = await self._owner.fetch(_SNAPSHOTS, {"account": self._account})
        return tuple(row[0] for row in rows)

    async def rewrite(self, *, however_large: bool) -> bool:
        """Leave no bytes of old row versions behind. Raises TableBusy.

        False: the tables have more than REWRITE_BYTES_MAX, so the bytes were freed and not
        written over.
        """
        ((size,),) = await self._owner.fetch(_SIZE, (list(_REWRITTEN),))
        full = " (FULL)" if however_large or size <= REWRITE_BYTES_MAX else ""

        async def work(connection: Connection) -> bool:
            try:
                for table in _REWRITTEN:
                    await connection.execute(f"VACUUM{full} {table}".encode())
                await connection.execute("VACUUM messages")
            except psycopg.errors.LockNotAvailable:
                return False
            return True

        if not await self._patient.run(work):
            raise TableBusy(f"the tables could not be had for {LOCK_SECONDS_MAX:g} s")
        return bool(full)

    async def finish(self) -> None:
        await self._owner.fetch(_FINISH, (self._account,))

    async def record(self) -> Record | None:
        rows = await self._owner.fetch(_RECORD, (self._account,))
        names = Record.__struct_fields__
        return Record(**dict(zip(names, rows[0], strict=True))) if rows else None
