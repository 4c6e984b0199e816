"""An operator's Prometheus reads a running stack."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.rest import Rest
from tests.support.waiting import until
from workers.stack.stack import Stack


async def test_prometheus_sees_the_worker_and_what_it_has_done(rest: Rest, stack: Stack) -> None:
    run = await rest.start("count me")
    await rest.ended(run)

    async with httpx.AsyncClient(base_url=stack.details["baseUrl"]) as prometheus:

        async def samples() -> dict[str, float]:
            answer = await prometheus.get("/metrics")
            assert answer.status_code == 200
            families = text_string_to_metric_families(answer.text)
            return {
                sample.name + "".join(sample.labels.values()): sample.value
                for family in families
                for sample in family.samples
            }

        async def are_told() -> bool:
            told = await samples()
            assert (told["runledger_uppostgres"], told["runledger_upredis"]) == (1, 1)
            return told["runledger_workers"] == 1 and told["runledger_jobs_finished_total"] > 0

        await until(are_told)
        assert (await samples())["runledger_worker_slots"] > 0
