"""Every Redis key and channel by name, with how long it may stay. No key is named elsewhere.

Keys that one Lua script touches carry the same hash tag (`{jobs}`, `{<run>}`), so that Redis
Cluster stays possible. All of it can be made again from the log.
"""

from typing import Final

from runs_domain.ids import RunId

GROUP: Final = "workers"

JOB_KEYS_PATTERN: Final = "rl:{jobs}:*"
"""All that is kept about jobs."""
JOB_STREAM: Final = "rl:{jobs}:stream"
"""One entry a job: kind, id, account, cause, retries, error. Never trimmed; finished ones go."""
JOB_INDEX: Final = "rl:{jobs}:index"
"""`<kind>:<id>` → where its one job is, and whose: see lua/jobs.lua."""
JOB_LATER: Final = "rl:{jobs}:later"
"""`<kind>:<id>` scored by when it is due (ms): delayed, and jobs that outlived a wiped stream."""
JOB_LATER_DATA: Final = "rl:{jobs}:later-data"
"""`<kind>:<id>` → the job as JSON, of those that are not in the stream."""
JOB_EPOCH: Final = "rl:{jobs}:epoch"
"""When the group was made (ms): an entry id from before it comes from a Redis that was wiped."""

JOB_SHARES: Final = "rl:{jobs}:shares"
"""`<account>:<kind>:<id>` of each job in the stream: what fair share counts."""
JOB_WAITING: Final = "rl:{jobs}:waiting"
"""`<account>:<rank>:<kind>:<id>` of jobs whose account has its share in the stream."""
JOB_ACCOUNTS: Final = "rl:{jobs}:accounts"
"""Accounts that have a share."""
JOB_WORKERS: Final = "rl:{jobs}:workers"
"""Consumer → when it last spoke (ms), slots, running, number of its last counts."""
JOB_SLOTS: Final = "rl:{jobs}:slots"
"""Slots of all live workers; WORKER_SILENT_SECONDS."""
JOB_COUNTERS: Final = "rl:{jobs}:counters"
"""What all workers have counted since Redis was last empty; see fleet_counters."""
JOB_TURNS: Final = "rl:{jobs}:turns"
"""What one worker does for all → when that was last done (ms)."""

WITHOUT_TTL: Final = frozenset(
    {
        JOB_STREAM,
        JOB_INDEX,
        JOB_LATER,
        JOB_LATER_DATA,
        JOB_EPOCH,
        JOB_SHARES,
        JOB_WAITING,
        JOB_ACCOUNTS,
        JOB_WORKERS,
        JOB_COUNTERS,
        JOB_TURNS,
    }
)
"""The keys that may stay for ever; each is as large as the number of unfinished jobs, or less."""

WORKER_SILENT_SECONDS: Final = 10
"""A worker that has said nothing for this long has no slots."""

CRON_LOCK_SECONDS: Final = 60
DUTY_SECONDS: Final = 150
"""More than twice the time between two looks of whoever has the duty."""
HEALTH_SECONDS: Final = 10
CHUNKS_LIVE_SECONDS: Final = 24 * 60 * 60
"""Counted from the last frame; longer than any pause of a live run."""

CANCEL_CHANNEL: Final = "rl:cancels"
LOG_CHANNEL: Final = "rl:log"
"""Something was appended; followers look."""


def cron_lock(tick: str) -> str:
    """Taken by the one worker that runs this tick of a cron job; CRON_LOCK_SECONDS."""
    return f"rl:{{jobs}}:cron:{tick}"


def duty(what: str) -> str:
    """The one worker that does this for all, as long as it does; DUTY_SECONDS."""
    return f"rl:{{jobs}}:duty:{what}"


def health(consumer: str) -> str:
    """A line about one worker process; twice HEALTH_SECONDS."""
    return f"rl:{{jobs}}:health:{consumer}"


def chunk_state(run_id: RunId) -> str:
    """Hash: `fence` and its `mark`, `attempt` that wrote last, `base`; CHUNKS_LIVE_SECONDS."""
    return f"rl:{{{run_id.hex}}}:chunks"


def chunk_frames(run_id: RunId) -> str:
    """List of frames, the first at index `base`; CHUNKS_LIVE_SECONDS."""
    return f"rl:{{{run_id.hex}}}:frames"


def wake_channel(run_id: RunId) -> str:
    return f"rl:wake:{run_id.hex}"
