"""Every view there is."""

from collections.abc import Sequence

from runs_domain.errors import UnknownView
from runs_domain.storage.credits_view import CreditsView
from runs_domain.storage.messages_view import MessagesView
from runs_domain.storage.runs_view import RunsView
from runs_domain.storage.sandboxes_view import SandboxesView
from runs_domain.storage.view import View


def all_views() -> tuple[View, ...]:
    return (RunsView(), MessagesView(), CreditsView(), SandboxesView())


def named(names: Sequence[str]) -> tuple[View, ...]:
    """The views of these names, all for none, each once. Raises UnknownView."""
    views = {view.name: view for view in all_views()}
    unknown = [name for name in names if name not in views]
    if unknown:
        raise UnknownView(f"there is no view {', '.join(unknown)}; there are {', '.join(views)}")
    return tuple(view for name, view in views.items() if not names or name in names)
