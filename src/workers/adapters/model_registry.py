"""All models of this worker as one: each call goes to the adapter that serves its id."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from runs_domain.errors import ModelRejected
from runs_domain.model_ids import is_local_installed
from runs_domain.model_port import Model, ModelEvent, ModelRequest
from runs_domain.ports import Clock
from runs_domain.settings import Settings
from workers.adapters.model_local import LocalModel
from workers.adapters.model_scripted import ScriptedModel

Close = Callable[[], Awaitable[None]]

UNSERVED: Final = "No worker serves the run's model"


class Models:
    def __init__(self, adapters: Sequence[Model], *, closes: Sequence[Close] = ()) -> None:
        self._adapters = tuple(adapters)
        self._closes = tuple(closes)

    def serves(self, model_id: str) -> bool:
        return any(adapter.serves(model_id) for adapter in self._adapters)

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Raises ModelRejected at once if the API promised a model that is not here."""
        for adapter in self._adapters:
            if adapter.serves(request.model):
                return adapter.stream(request)
        raise ModelRejected(UNSERVED)

    async def close(self) -> None:
        """Give back connections and threads; calls that run are cut off."""
        for close in self._closes:
            await close()


def models_of(settings: Settings, clock: Clock) -> Models:
    """The adapters that `model_ids.is_served` promises for these settings. Nothing is opened."""
    adapters: list[Model] = []
    closes: list[Close] = []
    total_seconds = settings.model_timeout_seconds
    if settings.scripted_models:
        adapters.append(ScriptedModel(clock))
    if is_local_installed():
        local = LocalModel(total_seconds=total_seconds)
        adapters.append(local)
        closes.append(local.close)
    if settings.model_base_url:
        # Half a second and 30 MB that a worker without a gateway need not spend.
        from workers.adapters.model_openai import OpenAIModel  # noqa: PLC0415

        gateway = OpenAIModel(
            settings.model_base_url, settings.model_api_key, total_seconds=total_seconds
        )
        adapters.append(gateway)
        closes.append(gateway.close)
    return Models(adapters, closes=closes)
