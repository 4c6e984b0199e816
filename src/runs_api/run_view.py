"""How a run looks on the wire: by itself and in lists the same."""

from typing import Final

from runs_api.schemas import RunView
from runs_domain.read_models import RunSummary

PRIVATE: Final = "private, no-cache"
"""Of `Cache-Control`: a run changes, and belongs to somebody."""


def view_of(run: RunSummary) -> RunView:
    return RunView(
        run_id=str(run.run_id),
        status=run.status,
        chat_id=str(run.chat_id),
        session_id=str(run.session_id),
        model=run.model,
        created_at=run.created_at,
        version=run.version,
        started_at=run.started_at,
        finished_at=run.finished_at,
        usage=run.usage,
        error=run.error,
    )
