"""The key of a run, derived as its worker derives it, so that tests can look for it and try it."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx

from runs_domain.ids import RunId, run_key_id
from runs_domain.keys import DerivedKeyIssuer, secrets_of
from runs_domain.scopes import RUN_KEY_SCOPES
from runs_domain.settings import load
from tests.support.rest import Rest, Run


async def key_is_good(details: Mapping[str, Any], run: Run) -> bool:
    """Whether the API takes the run's key; `details` is dev.json."""
    async with Rest(details["baseUrl"], run_key(details["env"], run.run_id)) as as_run:
        answer = await as_run.http.get(f"/api/chat/runs/{run.run_id}")
    assert answer.status_code in {200, 401}
    return answer.status_code == httpx.codes.OK


def run_key(env: Mapping[str, str], run_id: str) -> str:
    """`env` is dev.json's."""
    settings, run = load(env), RunId(UUID(run_id))
    derived = DerivedKeyIssuer(secrets_of(settings), settings.key_prefix).derive(
        run_key_id(run),
        run,
        secret_version=settings.secret_version,
        ttl_seconds=settings.key_ttl_seconds,
        scopes=RUN_KEY_SCOPES,
    )
    return derived.secret.reveal()
