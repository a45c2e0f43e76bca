"""What a server answers over HTTP, read from the tables of PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from queue_calls import RUN, result_of, status_of, submit
from servers import ENDPOINT, request_of, serving, settings_in
from upload_calls import UPLOAD

pytestmark = pytest.mark.cluster


@pytest.fixture
async def client(tmp_path: Path, postgres_database: SecretStr) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings_in(tmp_path, database=postgres_database)) as client:
        yield client


async def test_a_request_from_its_submit_to_its_usage(client: httpx.AsyncClient) -> None:
    job = await submit(client, "sleep 0.01")
    made = await result_of(client, job)
    assert made.status_code == 200
    video = httpx.URL(made.json()["video"]["url"]).path
    assert (await client.get(video)).status_code == 200
    assert "Started on" in (await status_of(client, job, logs="1")).text
    assert (await client.post(RUN, json=request_of("raise"))).status_code == 500
    sent = await client.post(UPLOAD, content=b"a file", headers={"content-type": "text/plain"})
    assert sent.status_code == 200

    paths = [
        "/v1/videos",
        f"/v1/models/requests/by-endpoint?endpoint_id={ENDPOINT}",
        "/v1/models/usage",
        f"/v1/models/analytics?endpoint_id={ENDPOINT}",
        "/metrics",
        "/health/ready",
    ]
    answers = {path: (await client.get(path)).status_code for path in paths}
    assert answers == dict.fromkeys(paths, 200)
