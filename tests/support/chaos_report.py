"""What came of a chaos run, read from the log: counts for people, and the checks."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg

from runs_domain.ids import SessionId, sandbox_name
from tests.support.chaos_clients import Accepted
from tests.support.chaos_plan import CANARY, LOOK
from tests.support.operators import run_script
from tests.support.rest import Rest, parts_of
from tests.support.stacks import LinkedStack

SCRIPT_SECONDS_MAX: Final = 300.0
ERRORS_SHOWN: Final = 60

_STATUSES: Final = "SELECT status, count(*) FROM run_heads GROUP BY status ORDER BY status"
_OPEN: Final = "SELECT count(*) FROM run_heads WHERE open"
_HEADS: Final = "SELECT run_id::text FROM run_heads"
_RESUMED: Final = """
    SELECT convert_from(state, 'UTF8')::jsonb->'data'->>'reason', count(*)
    FROM stored_events WHERE topic = 'run.resumed.v1' GROUP BY 1"""
_FAILED: Final = """
    SELECT convert_from(state, 'UTF8')::jsonb->'data'->>'code', count(*)
    FROM stored_events WHERE topic = 'run.failed.v1' GROUP BY 1"""
_VIEWS_BEHIND: Final = """
    SELECT count(*) FROM checkpoints
    WHERE position < (SELECT max(notification_id) FROM stored_events)"""


class Aftermath:
    """The database's own words. Open it once everything is healed."""

    def __init__(self, stack: LinkedStack) -> None:
        self._url = stack.details["adminDatabaseUrl"]

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            return connection.execute(sql.encode()).fetchall()

    def is_at_rest(self) -> bool:
        return self._rows(_OPEN) == [(0,)] and self._rows(_VIEWS_BEHIND) == [(0,)]

    def runs(self) -> set[str]:
        return {run_id for (run_id,) in self._rows(_HEADS)}

    def statuses(self) -> Counter[str]:
        return Counter(dict(self._rows(_STATUSES)))

    def resumed(self) -> Counter[str]:
        return Counter(dict(self._rows(_RESUMED)))

    def failed(self) -> Counter[str]:
        return Counter(dict(self._rows(_FAILED)))


def check_invariants(stack: LinkedStack) -> None:
    arguments = ["--at-rest", "--json", "--canary", CANARY, "--logs", str(stack.logs)]
    done = run_script(
        "check_invariants.py",
        *arguments,
        env=stack.details["env"],
        seconds_max=SCRIPT_SECONDS_MAX,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"] is True


async def doubled_effects(rest: Rest, accepted: Accepted, kept: Path) -> tuple[int, list[str]]:
    """How many lines were seen of the run's commands, and what is wrong with them: a line twice,
    or not once although its command has a result.
    """
    calls = parts_of((await rest.messages(accepted.run))[-1], "tool-bash")
    seen = _kept(kept, accepted)
    for call in calls:
        if _command(call) == LOOK and call["state"] == "output-available":
            seen = seen or Counter(call["output"]["stdout"].split())
    if seen is None:
        return 0, []
    wrong = [f"{line} {count} times" for line, count in seen.items() if count > 1]
    for call in calls:
        words = _command(call).partition("echo ")[2].split()
        done = call["state"] == "output-available" and call["output"]["exitCode"] == 0
        if words and done and seen[words[0]] != 1:
            wrong.append(f"{words[0]} {seen[words[0]]} times, and it has a result")
    return sum(seen.values()), wrong


def _command(call: dict[str, Any]) -> str:
    """Empty for a call that was cut short before its input was whole."""
    return str(call["input"].get("command", ""))


def _kept(kept: Path, accepted: Accepted) -> Counter[str] | None:
    file = kept / sandbox_name(SessionId(UUID(accepted.run.session_id)))
    return Counter(file.read_text("utf-8").split()) if file.exists() else None


def errors_in(logs: Path) -> list[str]:
    """The newest lines that tell of a fault, for whoever looks into a failure."""
    lines = [
        f"{file.name}: {line}"
        for file in sorted(logs.glob("*.log"))
        for line in file.read_text("utf-8", "replace").splitlines()
        if "ERROR" in line
    ]
    return lines[-ERRORS_SHOWN:]


def table(title: str, rows: dict[str, object]) -> str:
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])


def counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
