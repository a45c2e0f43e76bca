"""Fixtures that several files share."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from servers import serving, settings_in

pytest_plugins = ["client_servers", "client_table"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server for all the tests of a file; their jobs do not meet."""
    async with serving(settings_in(tmp_path_factory.mktemp("server"))) as client:
        yield client
