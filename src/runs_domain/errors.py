"""Every refusal the system makes, by name.

RunledgerError
├── RunNotFound            no such run (or not yours: the caller cannot tell)
├── Refused                a command that the run's state does not allow
│   ├── IllegalTransition
│   ├── InvalidCommand     a value outside its limits, whatever the state
│   └── RunEnded           the run has its terminal event
├── StaleAttempt           a worker that lost its run; it must stop at once
├── FenceDown              the chunk stream has forgotten an attempt's fence: put it up again
├── AppendRefused          the log said no to this append alone
│   ├── VersionConflict    somebody appended first; reload and decide again
│   ├── ChatBusy           another run of the chat is live
│   ├── KeyTaken           the key id or its MAC exists
│   ├── EventTooLarge      it will never be taken, however often it is tried
│   └── AppendBreaks       each time it was sent the connection broke, and the server is there
├── MigrationFailed        the database's tables could not be brought up to this release
├── StoreUnavailable       PostgreSQL cannot be asked now; nothing is known (never "not found")
├── QueueUnavailable       Redis cannot be asked now
├── InvalidPoint           neither a version nor a time with its offset
├── NoSuchPoint            a version or a time that the run does not have
├── HistoryCorrupt         stored events that no rule of this release can explain
│   └── UnknownEvent       a tag from a newer release
├── ViewDamaged            a row of a view is not what the fold left there; a rebuild mends it
├── ContentErased          the account's data key was destroyed
├── LetterRefused          a dead letter that cannot be retried or dropped as it stands
├── UnknownSecretVersion   made under a server secret that this process was not given
├── InvalidMessages        a UIMessage that is not one; carries the first bad path
├── ModelError             what went wrong at a model, typed by what to do next
│   ├── ModelOverloaded    retry with back-off
│   ├── ModelTimeout       retry with back-off
│   └── ModelRejected      never retry; the run fails with the reason
└── SandboxError
    ├── SandboxNotFound    gone: known not to exist
    ├── SandboxUnavailable unreachable or unknown: retry, never read as gone
    ├── SandboxExpired
    └── SandboxLimitExceeded
"""

from runs_domain.ids import RunId, Version


class RunledgerError(Exception):
    """Base of all errors that this system raises on purpose."""


class RunNotFound(RunledgerError):
    pass


class Refused(RunledgerError):
    pass


class IllegalTransition(Refused):
    pass


class InvalidCommand(Refused):
    pass


class StaleAttempt(RunledgerError):
    pass


class FenceDown(RunledgerError):
    pass


class RunEnded(Refused):
    pass


class AppendRefused(RunledgerError):
    pass


class VersionConflict(AppendRefused):
    def __init__(self, run_id: RunId, expected: Version, current: Version | None = None) -> None:
        super().__init__(f"run {run_id} is not at version {expected} (found: {current})")
        self.run_id = run_id
        self.expected = expected
        self.current = current


class ChatBusy(AppendRefused):
    pass


class KeyTaken(AppendRefused):
    pass


class EventTooLarge(AppendRefused):
    pass


class AppendBreaks(AppendRefused):
    pass


class MigrationFailed(RunledgerError):
    pass


class StoreUnavailable(RunledgerError):
    pass


class QueueUnavailable(RunledgerError):
    pass


class InvalidPoint(RunledgerError):
    pass


class NoSuchPoint(RunledgerError):
    pass


class HistoryCorrupt(RunledgerError):
    pass


class UnknownEvent(HistoryCorrupt):
    pass


class UnknownView(RunledgerError):
    """There is no view of that name."""


class ViewDamaged(RunledgerError):
    """The log is not to blame: somebody changed the view's table."""


class ContentErased(RunledgerError):
    pass


class LetterRefused(RunledgerError):
    """The message is a sentence for operators."""


class UnknownSecretVersion(RunledgerError):
    def __init__(self, version: int) -> None:
        super().__init__(f"no server secret of version {version} is configured")
        self.version = version


class InvalidMessages(RunledgerError):
    """`path` leads to the first bad value, e.g. ("messages", 0, "parts", 2, "type")."""

    def __init__(self, path: tuple[str | int, ...], problem: str) -> None:
        super().__init__(f"{dotted(path)}: {problem}")
        self.path = path
        self.problem = problem


def dotted(path: tuple[str | int, ...]) -> str:
    """`("messages", 0, "id")` → `messages[0].id`."""
    out = ""
    for segment in path:
        if isinstance(segment, int):
            out += f"[{segment}]"
        else:
            out += f".{segment}" if out else segment
    return out


class ModelError(RunledgerError):
    """The message is for the log and for `failed`: no provider body, no key, no content."""


class ModelOverloaded(ModelError):
    """`retry_after_seconds`: how long the provider asks to be left alone, if it says so."""

    def __init__(self, sentence: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after_seconds = retry_after_seconds


class ModelTimeout(ModelError):
    pass


class ModelRejected(ModelError):
    pass


class SandboxError(RunledgerError):
    pass


class SandboxNotFound(SandboxError):
    pass


class SandboxUnavailable(SandboxError):
    pass


class SandboxExpired(SandboxError):
    pass


class SandboxLimitExceeded(SandboxError):
    pass
