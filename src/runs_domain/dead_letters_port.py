"""Dead letters: what the workers gave up on, kept until an operator has seen to it."""

from datetime import datetime
from typing import Literal, Protocol, TypeAlias

from runs_domain.events import Struct
from runs_domain.ids import AccountId, RunId
from runs_domain.ports import JobKind

Reason: TypeAlias = Literal["tries_exhausted", "broken"]
"""`tries_exhausted`: the run has ended so, by its own stream. `broken`: its job breaks before the
stream can count it, so that only the queue could, and the run is still open."""
ClosedHow: TypeAlias = Literal["retried", "dropped"]


class Burial(Struct, frozen=True):
    kind: JobKind
    id: RunId
    reason: Reason
    last_error: str
    """`faults.brief` of it, class and place and never its text, or `plan.WORKER_LOST`."""
    tries: int


class DeadLetter(Struct, frozen=True):
    kind: JobKind
    id: RunId
    reason: Reason
    account_id: AccountId
    last_error: str
    tries: int
    buried_at: datetime
    """By the database's clock."""
    withheld: bool
    """The reconciler does not send the job."""
    closed_at: datetime | None
    closed_how: ClosedHow | None
    closed_by: str | None
    retried_as: RunId | None
    """The new run; of `tries_exhausted` alone."""


class DeadLetters(Protocol):
    """Every method raises StoreUnavailable."""

    async def bury(self, burial: Burial) -> bool:
        """Write the letter; True = it was not there, or a retry had closed it.

        Idempotent. A broken job's letter withholds the job from then on. An unknown run has none.
        """
        ...

    async def is_withheld(self, kind: JobKind, run_id: RunId) -> bool: ...

    async def letters_of(self, run_id: RunId) -> tuple[DeadLetter, ...]: ...

    async def close_retried(
        self, letter: DeadLetter, *, by: str, retried_as: RunId | None = None
    ) -> None:
        """Whatever it was before: a retry is a fact. Its job is withheld no longer."""
        ...

    async def close_dropped(self, letter: DeadLetter, *, by: str, withheld: bool) -> bool:
        """False = it was closed before, and nothing was changed."""
        ...
