"""`/mcp`: who may come in, and what its tools give whom. tests/clients has the SDK's client."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from api_keys import add_key, by_key
from asgi_calls import app_of
from job_fixtures import sql
from mcp_calls import ACCEPT, call, message
from queue_calls import submit
from servers import APP, serving, settings_in

from server.api.status_cache import _Kept
from server.config.settings import Settings
from server.keys import CALLER_SCOPES, Scope

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = f"{APP}/text-to-video"
PROMPT = {"prompt": "a red car", "num_inference_steps": 2}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("mcp"), auth="on", prices=f"{TEXT}=0.25")


Key = dict[str, str]


@pytest.fixture(scope="module")
def keys(settings: Settings) -> dict[str, Key]:
    """Headers with keys that the server has from its start."""
    scopes = {"mine": CALLER_SCOPES, "other": CALLER_SCOPES}
    scopes |= {"for runs": frozenset({Scope.RUN}), "for files": frozenset({Scope.FILES})}
    return {name: by_key(add_key(settings, scopes=each)) for name, each in scopes.items()}


@pytest.fixture(scope="module")
def mine(keys: dict[str, Key]) -> Key:
    return keys["mine"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(settings: Settings, keys: dict[str, Key]) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as client:
        yield client


async def until_completed(client: httpx.AsyncClient, key: Key, job: str) -> Any:
    while (status := await call(client, key, "check_job", request_id=job))["status"] != "COMPLETED":
        await asyncio.sleep(0.02)
    return status


async def test_without_the_sdk_it_says_what_adds_it(
    client: httpx.AsyncClient, mine: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.api.routes.mcp.find_spec", lambda name: None)
    answer = await client.post("/mcp", json=message("list_jobs"), headers=ACCEPT | mine)

    assert answer.status_code == 404
    assert "pip install 'cosmos-serve[mcp]'" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        by_key("me:wrong"),
        # A page of another site would have a browser send it along.
        {"cookie": "session=x; key=x; authorization=x"},
    ],
)
async def test_it_takes_a_key_and_nothing_else(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await client.post("/mcp", json=message("list_jobs"), headers=ACCEPT | headers)

    assert answer.status_code == 401


async def test_a_page_of_another_origin_is_refused_also_with_a_key(
    client: httpx.AsyncClient, mine: Key
) -> None:
    origin = {"origin": "https://evil.example"}
    answer = await client.post("/mcp", json=message("list_jobs"), headers=ACCEPT | mine | origin)

    assert answer.status_code == 403
    # Where no page's request has an effect of its own, a key is enough.
    assert (await client.get("/queue/x/requests/y", headers=mine | origin)).status_code == 404


async def test_what_is_no_message_is_refused_in_plain_text(
    client: httpx.AsyncClient, mine: Key
) -> None:
    refused = await client.post("/mcp", content=b"{}", headers=mine)
    assert (refused.status_code, refused.text) == (400, "Invalid Content-Type header")
    assert refused.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_job_does_not_exist_for_another_key(
    client: httpx.AsyncClient, keys: dict[str, Key]
) -> None:
    mine, other = keys["mine"], keys["other"]
    submitted = await call(client, mine, "submit_job", endpoint_id=TEXT, input=PROMPT)
    job = submitted["request_id"]

    for tool in ("check_job", "cancel_job"):
        assert "Request not found" in await call(client, other, tool, request_id=job)
    assert job not in str(await call(client, other, "list_jobs"))
    assert job in str(await call(client, mine, "list_jobs"))


async def test_where_no_key_is_asked_for_the_jobs_of_keys_are_not_listed(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        mine, of_a_key, over = [await submit(client) for _ in range(3)]
        database = tmp_path / "data" / "jobs.sqlite3"
        sql(database, f"UPDATE jobs SET key_id = 'alice' WHERE id = '{of_a_key}'")
        sql(database, f"UPDATE jobs SET expires_at = 1.0 WHERE id = '{over}'")
        listed = (await call(client, {}, "list_jobs"))["jobs"]

    assert [job["request_id"] for job in listed] == [mine]


async def test_a_key_does_what_its_scopes_allow(
    client: httpx.AsyncClient, keys: dict[str, Key]
) -> None:
    for_runs, for_files = keys["for runs"], keys["for files"]
    file = {"file_name": "a.png", "content_type": "image/png"}

    for tool, arguments in (
        ("submit_job", {"endpoint_id": TEXT, "input": PROMPT}),
        ("run_model", {"endpoint_id": TEXT, "input": PROMPT}),
        ("check_job", {"request_id": "x"}),
        ("cancel_job", {"request_id": "x"}),
        ("list_jobs", {}),
    ):
        assert "the scope 'run'" in await call(client, for_files, tool, **arguments)
    assert "the scope 'files'" in await call(client, for_runs, "upload_file", **file)
    assert "url" in await call(client, for_files, "upload_file", **file)


async def test_a_video_that_takes_longer_than_the_wait_becomes_a_job(
    client: httpx.AsyncClient, mine: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.api.mcp_tools.WAIT_S", 0.1)
    slow = {"prompt": "sleep 3600"}
    answer = await call(client, mine, "run_model", endpoint_id=TEXT, input=slow)

    assert answer["status"] in ("IN_QUEUE", "IN_PROGRESS")
    job = answer["request_id"]
    early = await call(client, mine, "check_job", request_id=job, action="result")
    assert "still in progress" in early
    statuses = app_of(client).state.services.statuses
    older = await statuses.get(job)
    await call(client, mine, "cancel_job", request_id=job)
    status = await until_completed(client, mine, job)
    # As of a job that another server ended a moment ago.
    statuses._kept[job] = _Kept(older, math.inf)
    late = await call(client, mine, "check_job", request_id=job, action="result")
    assert "cancelled" in late
    assert status == {
        "request_id": job,
        "endpoint_id": TEXT,
        "status": "COMPLETED",
        "error": "Request cancelled by the client.",
    } | {"log": status["log"]}


@pytest.mark.parametrize(
    ("input", "told"),
    [
        ({}, "prompt: Field required"),
        (PROMPT | {"num_frames": 8}, "num_frames: Input should be greater than or equal to 9"),
        (PROMPT | {"seed": float("nan")}, "JSON decode error"),
        (PROMPT | {"sync_mode": True}, "Leave sync_mode out"),
    ],
)
async def test_invalid_input_is_told_by_field(
    client: httpx.AsyncClient, mine: Key, input: dict[str, object], told: str
) -> None:
    assert told in await call(client, mine, "run_model", endpoint_id=TEXT, input=input)


async def test_an_endpoint_without_weights_is_none(client: httpx.AsyncClient, mine: Key) -> None:
    distilled = f"{APP}/distilled/text-to-video"
    for tool in ("get_model_schema", "get_pricing"):
        assert "There is no endpoint" in await call(client, mine, tool, endpoint_id=distilled)
    found = await call(client, mine, "search_models", query="a video from an IMAGE")
    assert found["models"][0]["endpoint_id"] == f"{APP}/image-to-video"
    assert distilled not in str(await call(client, mine, "search_models"))


async def test_a_price_is_the_operators(client: httpx.AsyncClient, mine: Key) -> None:
    answer = await call(client, mine, "get_pricing", endpoint_id=TEXT)
    assert answer["prices"] == [
        {"endpoint_id": TEXT, "unit_price": 0.25, "unit": "video", "currency": "USD"}
    ]


@pytest.mark.parametrize(
    ("data", "told"),
    [("not base64!", "data is not base64"), ("A" * (2**20 // 3 * 4 + 8), "the upload_url")],
)
async def test_bytes_that_cannot_be_taken_are_refused(
    client: httpx.AsyncClient, mine: Key, data: str, told: str
) -> None:
    file = {"file_name": "a.png", "content_type": "image/png", "data": data}
    assert told in await call(client, mine, "upload_file", **file)


async def test_a_video_that_was_asked_for_as_bytes_is_a_url_here(
    client: httpx.AsyncClient, mine: Key
) -> None:
    body = PROMPT | {"sync_mode": True}
    submitted = await client.post(f"/queue/{TEXT}", json=body, headers=mine)
    status = await until_completed(client, mine, submitted.json()["request_id"])

    assert "base64" not in str(status)
    assert (await client.get(status["video"]["url"])).status_code == 200
