"""The POST's promise and the worker's adapters agree on every model id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs_domain.errors import ModelRejected
from runs_domain.model_ids import LOCAL, MODEL_ID_CHARS_MAX, is_local_installed, is_served
from runs_domain.settings import Secret, Settings
from tests.models.requests import events_of, model_request, text_of
from tests.support.driving import TestClock
from workers.adapters.model_registry import models_of

GATEWAY = "http://127.0.0.1:9/v1"


def settings(*, scripted: bool = False, base_url: str = "") -> Settings:
    return Settings(
        database_url=Secret(""),
        redis_url=Secret(""),
        secret=Secret("s" * 32),
        scripted_models=scripted,
        model_base_url=base_url,
    )


IDS = [
    "scripted/echo",
    "scripted/playbook",
    "scripted/other",
    "local/smollm2-135m",
    "local/other",
    "anthropic/claude-haiku-4.5",
    "meta-llama/Llama-3.1-8B-Instruct:free",
    "a/b/c",
    "gpt-4",
    "/x",
    "x/",
    "a b/c",
    "a/b\n",
    "",
    "a/" + "b" * MODEL_ID_CHARS_MAX,
]


@given(
    st.sampled_from(IDS) | st.text() | st.from_regex(r"[a-z/:.]{1,12}"),
    st.booleans(),
    st.sampled_from(["", GATEWAY]),
)
def test_a_model_is_served_by_a_worker_if_and_only_if_the_api_says_so(
    model_id: str, scripted: bool, base_url: str
) -> None:
    told = settings(scripted=scripted, base_url=base_url)

    assert models_of(told, TestClock()).serves(model_id) == is_served(model_id, told)


def test_scripted_models_are_served_only_where_they_are_switched_on() -> None:
    assert is_served("scripted/echo", settings(scripted=True))
    assert not is_served("scripted/echo", settings(base_url=GATEWAY))
    assert not is_served("scripted/other", settings(scripted=True, base_url=GATEWAY))


def test_gateway_ids_are_served_only_with_a_base_url() -> None:
    served = {name for name in IDS if is_served(name, settings(base_url=GATEWAY))}

    assert served - {LOCAL} == {
        "anthropic/claude-haiku-4.5",
        "meta-llama/Llama-3.1-8B-Instruct:free",
        "a/b/c",
    }
    assert not is_served("anthropic/claude-haiku-4.5", settings(scripted=True))


def test_the_local_model_is_served_where_its_wheels_are() -> None:
    assert is_served(LOCAL, settings()) == is_local_installed()


async def test_a_call_goes_to_the_adapter_of_its_model_and_closing_is_clean() -> None:
    models = models_of(settings(scripted=True, base_url=GATEWAY), TestClock())

    events = await events_of(models, model_request("hi there", model="scripted/echo"))

    assert text_of(events) == "hi there"
    await models.close()


async def test_a_model_that_this_worker_lacks_is_rejected() -> None:
    with pytest.raises(ModelRejected):
        await events_of(models_of(settings(), TestClock()), model_request(model="acme/small"))
