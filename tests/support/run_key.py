"""The key of a run, derived as its worker derives it, so that tests can look for it and try it."""

from collections.abc import Mapping
from uuid import UUID

from runs_domain.ids import RunId, run_key_id
from runs_domain.keys import DerivedKeyIssuer, secrets_of
from runs_domain.scopes import RUN_KEY_SCOPES
from runs_domain.settings import load


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
