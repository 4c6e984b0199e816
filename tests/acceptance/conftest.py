from collections.abc import AsyncIterator

import pytest

from tests.support.rest import Rest
from workers.stack.stack import Stack


@pytest.fixture
async def rest(stack: Stack) -> AsyncIterator[Rest]:
    """A person's client of the shared stack."""
    async with Rest(stack.details["baseUrl"], stack.details["apiKey"]) as client:
        yield client
