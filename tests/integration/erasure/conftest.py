from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.erasures import Place, furnished
from tests.support.servers import Database


@pytest.fixture
async def place(database: Database, redis_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    async with furnished(database, redis_url, tmp_path) as one:
        yield one
