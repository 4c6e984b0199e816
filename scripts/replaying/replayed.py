"""What `replay_run.py` shows of a run, in whatever form: its history, event by event."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from runs_api.event_view import event_of
from runs_api.run_view import view_of
from runs_domain.errors import HistoryCorrupt, UnknownEvent
from runs_domain.events import Json, Usage
from runs_domain.ports import Recorded, Stored
from runs_domain.read_models import messages_after, shown_messages
from runs_domain.run import RunState
from runs_domain.storage.run_history import RunHistory
from runs_domain.timeline import Moment, Timeline

ERASED: Final = "(erased)"
UNKNOWN: Final = "unknown"
NOT_UNDERSTOOD: Final = "not understood from here on"


class Row(NamedTuple):
    """An event. One that this release does not understand, or that comes after one, is as it is
    stored and no more.
    """

    stored: Stored
    recorded: Recorded | None = None
    moment: Moment | None = None
    state: RunState | None = None


class Replay(NamedTuple):
    run_id: str
    rows: Sequence[Row]
    timeline: Timeline
    stream: Sequence[Recorded]
    """What was understood."""
    trouble: str | None
    """A sentence for operators: why the rest was not."""


def replay(run_id: str, history: RunHistory) -> Replay:
    timeline = Timeline()
    trouble = history.trouble
    rows: list[Row] = []
    for one in history.stream:
        try:
            moment = timeline.take(one)
        except HistoryCorrupt as error:
            trouble = error
            break
        rows.append(Row(history.stored[len(rows)], one, moment, timeline.state))
    understood = len(rows)
    rows += map(Row, history.stored[understood:])
    return Replay(
        run_id=run_id,
        rows=rows,
        timeline=timeline,
        stream=history.stream[:understood],
        trouble=None if trouble is None else _sentence(run_id, trouble, understood),
    )


def as_json(shown: Replay) -> dict[str, Any]:
    """`run` and `events` are what the API answers; `messages` too, unfinished ones included."""
    summary = shown.timeline.summary
    told: dict[str, Any] = {
        "run": None if summary is None else view_of(summary),
        "events": [event_of(row.stored) for row in shown.rows],
        "timeline": shown.timeline.moments,
        "messages": messages_then(shown),
        "steps": shown.timeline.steps,
        "totals": None if summary is None else shown.timeline.totals(),
    }
    return told if shown.trouble is None else told | {"error": shown.trouble}


def messages_then(shown: Replay) -> tuple[Json, ...]:
    return shown_messages(messages_after(shown.stream), partial=True)


def _sentence(run_id: str, trouble: HistoryCorrupt, understood: int) -> str:
    upto = f"shown up to version {understood}" if understood else "nothing of it can be shown"
    if isinstance(trouble, UnknownEvent):
        return f"{trouble}; {upto}: a newer release wrote it, and its replay_run.py reads it"
    return f"{trouble}; {upto}: ask scripts/verify_history.py {run_id}"


# ------------------------------------------------------------------------------ words


def lasted(seconds: float) -> str:
    """At most 8 columns."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 or not seconds else "<1 ms"  # noqa: PLR2004
    if seconds < 100:  # noqa: PLR2004 - three digits at most
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes}m {rest:02}s"
    return f"{hours}h {minutes:02}m" if hours < 100 else str(timedelta(hours=hours).days) + " d"  # noqa: PLR2004


def priced(cost: Decimal | None) -> str:
    return UNKNOWN if cost is None else f"{cost:f} USD"


def tokens(usage: Usage | None) -> str:
    """By class, those that were used; input and output always."""
    if usage is None:
        return UNKNOWN
    rarer = {
        "cached input": usage.cached_input_tokens,
        "cache write": usage.cache_write_tokens,
        "reasoning": usage.reasoning_tokens,
    }
    told = [f"{usage.input_tokens} input", f"{usage.output_tokens} output"]
    return ", ".join(told + [f"{count} {name}" for name, count in rarer.items() if count])


def in_and_out(usage: Usage) -> str:
    """All classes together: what went in, what came out."""
    into = usage.input_tokens + usage.cached_input_tokens + usage.cache_write_tokens
    return f"{into}+{usage.output_tokens + usage.reasoning_tokens}"


def many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
