"""A real language model, in the worker, with no network: it answers token by token."""

from runs_domain.frames import TextDelta
from tests.support.rest import Rest, parts_of
from tests.support.run_story import check_story

MODEL = "local/smollm2-135m"


async def test_a_real_model_streams_its_answer_in_tokens(rest: Rest) -> None:
    run = await rest.start("Write one short sentence about the sea.", MODEL)
    async with rest.watching(run) as watch:
        reader = await check_story(rest, run, watch)

    deltas = [frame for frame in watch.frames if isinstance(frame, TextDelta)]
    assert len(deltas) > 3
    (answer,) = parts_of(reader.message, "text")
    assert len(answer["text"].split()) > 3
    status = (await rest.http.get(f"/api/chat/runs/{run.run_id}")).json()
    assert (status["status"], status["model"]) == ("completed", MODEL)
    assert status["usage"]["outputTokens"] >= len(deltas)


async def test_a_real_model_is_stopped_in_the_middle_of_its_answer(rest: Rest) -> None:
    run = await rest.start("Tell me a very long story about the sea and all its fish.", MODEL)
    async with rest.watching(run) as watch:
        await watch.has(5)
        await rest.cancel(run)
        await check_story(rest, run, watch)

    assert await rest.status(run) == "cancelled"
