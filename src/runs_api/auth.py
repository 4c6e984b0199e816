"""Who calls. One guard for all routes, asked before any body is read.

Each handler says in its `opt` what it takes: `PUBLIC`, or `needs(scope)`. The guard never looks
at a path, so a new route without a word is refused when the app is made.
"""

from typing import Any, Final, cast

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from runs_api.deps import deps_of
from runs_api.errors import forbidden, not_found, unauthorized
from runs_api.observe import request_id, seen
from runs_domain.credentials_port import Credential
from runs_domain.ids import AccountId
from runs_domain.ports import Context
from runs_domain.run import FIRST_ATTEMPT
from runs_domain.scopes import Scope

PUBLIC: Final[dict[str, Any]] = {"public": True}

Connection = ASGIConnection[Any, Any, Any, Any]


def needs(scope: Scope) -> dict[str, Any]:
    """The `opt` of a handler that a run's own key reaches with that scope only."""
    return {"scope": scope}


async def require_credential(connection: Connection, handler: BaseRouteHandler) -> None:
    """Litestar's guard. Leaves the Credential in `connection.auth`."""
    if handler.opt.get("public"):
        return
    credential = await authenticate(connection)
    connection.scope["auth"] = credential
    seen(connection.scope).account = str(credential.account_id)
    if credential.run_id is not None:
        _confine(connection, credential, handler.opt.get("scope"))


async def authenticate(connection: Connection) -> Credential:
    """Raises 401, or StoreUnavailable on doubt."""
    return await look_up(connection, presented_key(connection))


async def look_up(connection: Connection, raw: str) -> Credential:
    credential = await deps_of(connection.scope).credentials.look_up(raw)
    if credential is None:
        raise unauthorized("The credential is not valid")
    return credential


def presented_key(connection: Connection) -> str:
    """The one credential; two are as wrong as none, because they may name two accounts."""
    keys = connection.headers.getall("x-api-key", [])
    bearers = connection.headers.getall("authorization", [])
    if len(keys) + len(bearers) != 1:
        raise unauthorized("Give exactly one of x-api-key and Authorization")
    if keys:
        return keys[0].strip()
    scheme, _, token = bearers[0].partition(" ")
    if scheme.lower() != "bearer":
        raise unauthorized("Authorization takes a Bearer key")
    return token.strip()


def credential_of(connection: Connection) -> Credential:
    return cast("Credential", connection.scope["auth"])


def actor_of(credential: Credential) -> str:
    """The principal that the log names."""
    if credential.account_kind == "org":
        return f"org:{credential.account_id}"
    return f"key:{credential.key_id}"


def context_of(connection: Connection, subject: AccountId) -> Context:
    """The envelope of what a client's request appends."""
    request = request_id(connection.scope)
    return Context(
        actor=actor_of(credential_of(connection)),
        subject=subject,
        correlation=request,
        causation=request,
        attempt=FIRST_ATTEMPT,
    )


def _confine(connection: Connection, credential: Credential, scope: Scope | None) -> None:
    """A run's key is good for its own run and for the routes it was given.

    The framework's own handlers (OPTIONS) name no scope, so no run's key is good for them.
    """
    if scope not in credential.scopes:
        raise forbidden("This key is not good for this route")
    named = connection.path_params.get("run_id")
    if named is not None and named != str(credential.run_id):
        raise not_found()
