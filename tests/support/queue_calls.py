"""What tests do with a server, in a word each."""

import asyncio
from typing import Any

import httpx
from asgi_calls import app_of
from servers import APP, ENDPOINT, request_of

RUN = f"/run/{ENDPOINT}"
SUBMIT = f"/queue/{ENDPOINT}"


async def submit(client: httpx.AsyncClient, prompt: str = "a red car", **fields: Any) -> str:
    answer = await client.post(SUBMIT, json=request_of(prompt, **fields))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


async def status_of(
    client: httpx.AsyncClient, job: str, *, app: str = APP, **params: Any
) -> httpx.Response:
    return await client.get(f"/queue/{app}/requests/{job}/status", params=params)


async def until(
    client: httpx.AsyncClient, job: str, status: str, *, app: str = APP
) -> dict[str, Any]:
    while True:
        body: dict[str, Any] = (await status_of(client, job, app=app, logs="1")).json()
        if body["status"] == status:
            return body
        assert body["status"] != "COMPLETED", body
        await asyncio.sleep(0.02)


async def until_prepared(client: httpx.AsyncClient, *jobs: str) -> None:
    """Wait for the jobs' pictures, which no answer tells of: until then others may overtake."""
    store = app_of(client).state.services.store
    while not all(store.job(job).input_refs for job in jobs):
        await asyncio.sleep(0.01)


async def cancel(client: httpx.AsyncClient, job: str) -> httpx.Response:
    return await client.put(f"/queue/{APP}/requests/{job}/cancel")


async def result_of(client: httpx.AsyncClient, job: str, *, app: str = APP) -> httpx.Response:
    await until(client, job, "COMPLETED", app=app)
    return await client.get(f"/queue/{app}/requests/{job}")
