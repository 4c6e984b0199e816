"""The names things go by. Each is its own type, so that one is never passed for another."""

import hashlib
from typing import NewType
from uuid import UUID, uuid5

RunId = NewType("RunId", UUID)
ChatId = NewType("ChatId", UUID)
SessionId = NewType("SessionId", UUID)
AccountId = NewType("AccountId", UUID)
KeyId = NewType("KeyId", UUID)

Version = NewType("Version", int)
"""An event's place in its own stream: 1, 2, 3 … with no hole."""

Position = NewType("Position", int)
"""An event's place in the whole log: increasing, with gaps."""

Attempt = NewType("Attempt", int)
"""The fence of a run: 1 for the first worker, raised by each `resumed`."""


def assistant_message_id(run_id: RunId) -> str:
    """The one assistant message of a run; the same whoever resumes it (incident I-07)."""
    return f"msg_{run_id.hex}"


def user_message_id(run_id: RunId) -> str:
    """The user message made from a bare prompt."""
    return f"msg_{run_id.hex}_prompt"


def tool_call_id(run_id: RunId, part: int) -> str:
    """The call that stands at index `part` of the message; replaces the provider's random id."""
    return f"call_{run_id.hex}_{part}"


def sandbox_name(session_id: SessionId) -> str:
    """Derived, so that a sandbox whose provisioning died half-way can be found and undone."""
    return f"rl-{session_id.hex}"


def chain_start(run_id: RunId) -> str:
    """The `prev` of a stream's first event: SHA-256 (hex) of the run id's text."""
    return hashlib.sha256(str(run_id).encode()).hexdigest()


def retry_run_id(run_id: RunId) -> RunId:
    """The new run that repeats a dead one: the same whoever retries it, so that it is one run."""
    return RunId(uuid5(run_id, "retry"))


def run_key_id(run_id: RunId) -> KeyId:
    """Derived, so that a mint whose reply was lost is tried again under the same id."""
    return KeyId(uuid5(run_id, "run key"))
