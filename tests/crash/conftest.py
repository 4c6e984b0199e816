from collections.abc import AsyncIterator

import pytest

from tests.support.rest import Rest
from tests.support.stacks import BreakableStack


@pytest.fixture
async def client(broken: BreakableStack) -> AsyncIterator[Rest]:
    async with Rest(broken.details["baseUrl"], broken.details["apiKey"]) as rest:
        yield rest
