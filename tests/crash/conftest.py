from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.rest import Rest
from tests.support.stacks import BreakableStack, breakable_stack


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "settings: of the stack that the test breaks")


@pytest.fixture
def broken(request: pytest.FixtureRequest) -> Iterator[BreakableStack]:
    """A stack of the test's own, to break; it comes without workers.

    `@pytest.mark.settings(lease_seconds="1")` changes its settings.
    """
    marker = request.node.get_closest_marker("settings")
    with breakable_stack(**({} if marker is None else marker.kwargs)) as stack:
        yield stack


@pytest.fixture
async def client(broken: BreakableStack) -> AsyncIterator[Rest]:
    async with Rest(broken.details["baseUrl"], broken.details["apiKey"]) as rest:
        yield rest
