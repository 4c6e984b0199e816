"""What the workers' wiring derives from the settings."""

import pytest

from runs_domain.plan import MODEL_STEPS_MAX
from runs_domain.settings import Secret, Settings
from workers.agent.model_step import MODEL_CALL_SECONDS_MAX
from workers.bootstrap import api_base_url


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),  # noqa: S104 - read, not bound
        ("::", "http://[::1]:8080"),
        ("fd00::1", "http://[fd00::1]:8080"),
        ("api.internal", "http://api.internal:8080"),
    ],
)
def test_the_api_is_reached_where_it_listens(host: str, reached: str) -> None:
    url = Secret("")

    assert api_base_url(Settings(database_url=url, redis_url=url, secret=url, host=host)) == reached


def test_a_job_may_take_longer_than_the_longest_legal_run() -> None:
    url = Secret("")
    settings = Settings(database_url=url, redis_url=url, secret=url)

    step_seconds = MODEL_CALL_SECONDS_MAX + settings.tool_timeout_seconds

    assert settings.job_timeout_seconds > MODEL_STEPS_MAX * step_seconds
