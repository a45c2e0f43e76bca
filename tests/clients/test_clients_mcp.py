"""The official SDK's client of the Model Context Protocol, against a server as users start it."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import httpx2
import pytest
from client_servers import KEY, ClientServer
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ResourceLink, TextContent
from servers import APP, picture

pytestmark = pytest.mark.clients

CLIENT = "mcp 2.3.0"
Mode = Literal["legacy", "auto"]
TEXT, IMAGE = f"{APP}/text-to-video", f"{APP}/image-to-video"
PROMPT = {"prompt": "a red car", "num_inference_steps": 2, "num_frames": 9}
READING = {"search_models", "get_model_schema", "get_pricing", "check_job", "list_jobs"}


@asynccontextmanager
async def connected(
    server: ClientServer,
    mode: Mode = "auto",
    key: str = KEY,
    statuses: list[int] | None = None,
    **headers: str,
) -> AsyncIterator[Client]:
    """A client with a key; "legacy" is the protocol with a handshake, as of 2025.

    `statuses` gets those of the answers, which the SDK does not tell.
    """

    async def note(answer: httpx2.Response) -> None:
        if statuses is not None:
            statuses.append(answer.status_code)

    headers["authorization"] = f"Bearer {key}"
    hooks = {"response": [note]}
    async with httpx2.AsyncClient(headers=headers, timeout=60, event_hooks=hooks) as http:
        transport = streamable_http_client(f"{server.http}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


async def told(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool answers: the same for programs and for models."""
    answer = await client.call_tool(tool, arguments)
    assert isinstance(answer, CallToolResult) and not answer.is_error, answer
    text = answer.content[0]
    assert isinstance(text, TextContent)
    assert json.loads(text.text) == answer.structured_content
    return answer.structured_content


@pytest.mark.shows(CLIENT, "submit", "logs", "result", "download")
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_model_is_found_and_makes_a_video(client_server: ClientServer, mode: Mode) -> None:
    lines = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        lines.append(message)

    async with connected(client_server, mode) as client:
        found = await told(client, "search_models", query="video from a text prompt")
        assert {each["endpoint_id"] for each in found["models"]} >= {TEXT, IMAGE}
        schema = await told(client, "get_model_schema", endpoint_id=TEXT)
        assert schema["input"]["required"] == ["prompt"]
        price = await told(client, "get_pricing", endpoint_id=TEXT)
        assert price["prices"][0]["unit_price"] == 0
        arguments = {"endpoint_id": TEXT, "input": PROMPT | {"prompt": "sleep 0.05"}}
        answer = await client.call_tool("run_model", arguments, progress_callback=on_progress)

    assert isinstance(answer, CallToolResult)
    text, link = answer.content
    assert isinstance(text, TextContent) and isinstance(link, ResourceLink)
    output = json.loads(text.text)
    assert output["video"]["url"] == str(link.uri)
    assert link.mime_type == "video/mp4"
    assert len(httpx.get(str(link.uri)).content) == link.size == 65536
    assert "base64" not in answer.model_dump_json()
    assert "Reading the prompt" in lines


@pytest.mark.shows(CLIENT, "submit", "cancel")
async def test_a_job_is_followed_listed_and_cancelled(client_server: ClientServer) -> None:
    slow = {"endpoint_id": TEXT, "input": PROMPT | {"prompt": "sleep 3600"}}
    async with connected(client_server) as client:
        job = (await told(client, "submit_job", **slow))["request_id"]
        while (await told(client, "check_job", request_id=job))["status"] != "IN_PROGRESS":
            await asyncio.sleep(0.02)
        jobs = (await told(client, "list_jobs", limit=1))["jobs"]
        assert jobs == [{"request_id": job, "endpoint_id": TEXT, "status": "IN_PROGRESS"}]

        cancelled = await told(client, "cancel_job", request_id=job)
        assert cancelled["status"] == "CANCELLATION_REQUESTED"
        while (status := await told(client, "check_job", request_id=job))["status"] != "COMPLETED":
            await asyncio.sleep(0.02)
        assert status["error"] == "Request cancelled by the client."
        again = await told(client, "cancel_job", request_id=job)
        assert again["status"] == "ALREADY_COMPLETED"


@pytest.mark.shows(CLIENT, "validation error")
async def test_invalid_input_is_told_by_field(client_server: ClientServer) -> None:
    wrong = {"endpoint_id": TEXT, "input": PROMPT | {"num_frames": 8}}
    async with connected(client_server) as client:
        answer = await client.call_tool("submit_job", wrong)

    assert isinstance(answer, CallToolResult) and answer.is_error
    text = answer.content[0]
    assert isinstance(text, TextContent)
    assert "num_frames: Input should be greater than or equal to 9" in text.text


@pytest.mark.shows(CLIENT, "upload")
@pytest.mark.parametrize("way", ["data", "url"])
async def test_a_picture_is_uploaded_and_used(client_server: ClientServer, way: str) -> None:
    file = {"file_name": "car.png", "content_type": "image/png"}
    async with connected(client_server) as client:
        if way == "data":
            data = base64.b64encode(picture()).decode()
            uploaded = await told(client, "upload_file", **file, data=data)
        else:
            uploaded = await told(client, "upload_file", **file)
            headers = {"content-type": "image/png"}
            put = httpx.put(uploaded["upload_url"], content=picture(), headers=headers)
            assert put.status_code == 200
        body = PROMPT | {"image_url": uploaded["url"]}
        output = await told(client, "run_model", endpoint_id=IMAGE, input=body)

    assert httpx.get(uploaded["url"]).content == picture()
    assert output["status"] == "COMPLETED" and "/files/" in output["video"]["url"]


async def test_what_changes_something_says_so(client_server: ClientServer) -> None:
    async with connected(client_server) as client:
        tools = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}

    assert all(hints is not None for hints in tools.values())
    assert {name for name, hints in tools.items() if hints and hints.read_only_hint} == READING
    assert {name for name, hints in tools.items() if hints and hints.destructive_hint} == {
        "cancel_job"
    }
    assert tools.keys() - READING == {"run_model", "submit_job", "cancel_job", "upload_file"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"key": "me:wrong"}, 401), ({"origin": "https://evil.example"}, 403)],
)
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_wrong_key_and_a_foreign_origin_are_refused(
    client_server: ClientServer, mode: Mode, headers: dict[str, str], status: int
) -> None:
    statuses: list[int] = []
    with pytest.raises(ExceptionGroup):
        async with connected(client_server, mode, statuses=statuses, **headers) as client:
            await client.list_tools()

    assert set(statuses) == {status}
