"""What tests do with OpenAI's videos API, in a word each."""

import asyncio
from typing import Any

import httpx

VIDEOS = "/v1/videos"
NOBODY = "00000000-0000-4000-8000-000000000000"
SHORT = {"num_frames": 9, "num_inference_steps": 2}


async def create(
    client: httpx.AsyncClient,
    prompt: str = "a red car",
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> Any:
    answer = await client.post(VIDEOS, json={"prompt": prompt, **SHORT, **fields}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def until_it_is(
    client: httpx.AsyncClient, video: Any, status: str, headers: dict[str, str] | None = None
) -> Any:
    """The video, once it is in this state."""
    while True:
        view = (await client.get(f"{VIDEOS}/{video['id']}", headers=headers)).json()
        if view["status"] == status:
            return view
        assert view["status"] in ("queued", "in_progress"), view
        await asyncio.sleep(0.02)


async def content(
    client: httpx.AsyncClient, video: Any, variant: str = "video", **headers: str
) -> httpx.Response:
    path = f"{VIDEOS}/{video['id']}/content"
    return await client.get(path, params={"variant": variant}, headers=headers)


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """What an error says; it has OpenAI's shape, and nothing else."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error
