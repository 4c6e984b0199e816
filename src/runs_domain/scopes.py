"""What a run's own key may be good for. An account's key is good for all of it."""

from typing import Final, Literal, TypeAlias

Scope: TypeAlias = Literal["runs:read", "runs:write"]

READ: Final[Scope] = "runs:read"
"""See the run: its status, history, messages, stream."""
WRITE: Final[Scope] = "runs:write"
"""Start runs, cancel the run."""

RUN_KEY_SCOPES: Final[tuple[Scope, ...]] = (READ,)
"""What a run's own key may do: read its own run, nothing that starts or ends one."""
