"""The nodes for ComfyUI, in a stub of ComfyUI, against a server as users start it."""

import asyncio
import io
import sqlite3
import tomllib
from contextlib import closing
from typing import Any

import pytest
import torch
from client_servers import KEY, ClientServer
from clips import clip
from comfyui_stub import (
    ComfyUI,
    InterruptProcessingException,
    VideoFromFile,
    defaults,
    install,
    loaded_nodes,
    pack_file,
)

from server.fal.schemas import TextToVideoInput

pytestmark = pytest.mark.clients

TEXT, IMAGE, VIDEO = (f"CosmosServe{name}ToVideo" for name in ("Text", "Image", "Video"))


async def video_of(id_: str, **given: Any) -> bytes:
    """The bytes of the video that a node gives, with the widgets as they are but for some."""
    node = (await loaded_nodes())[id_]
    (video,) = (await node.execute(**defaults(node) | {"num_frames": 9} | given)).result
    assert isinstance(video, VideoFromFile)
    return video.data


@pytest.fixture
def comfyui(monkeypatch: pytest.MonkeyPatch) -> ComfyUI:
    return install(monkeypatch)


@pytest.fixture
def server(client_server: ClientServer, monkeypatch: pytest.MonkeyPatch) -> ClientServer:
    """The server that ComfyUI's environment names."""
    monkeypatch.setenv("COSMOS_SERVE_URL", f"{client_server.http}/")
    monkeypatch.setenv("COSMOS_SERVE_KEY", KEY)
    return client_server


async def end_of_last_job(server: ClientServer) -> tuple[str, int]:
    """The endpoint of the job that came last, and how it ends."""
    query = "SELECT endpoint, http_status, status FROM jobs ORDER BY seq DESC LIMIT 1"
    with closing(sqlite3.connect(server.folder / "data" / "jobs.sqlite3")) as database:
        while True:
            endpoint, http_status, status = database.execute(query).fetchone()
            if status == "COMPLETED":
                return str(endpoint).rpartition("/")[2], http_status
            await asyncio.sleep(0.02)


def image() -> torch.Tensor:
    """A batch of two images; the nodes take the first."""
    return torch.stack([torch.full((64, 96, 3), 0.25), torch.full((64, 96, 3), 0.75)])


@pytest.mark.parametrize(
    ("node", "media", "endpoint"),
    [
        (TEXT, dict, "text-to-video"),
        (IMAGE, lambda: {"image": image()}, "image-to-video"),
        (VIDEO, lambda: {"video": VideoFromFile(io.BytesIO(clip()))}, "video-to-video"),
    ],
)
async def test_a_node_gives_a_video_and_its_bar_counts_the_steps(
    comfyui: ComfyUI, server: ClientServer, node: str, media: Any, endpoint: str
) -> None:
    data = await video_of(node, prompt="sleep 0.1", num_inference_steps=8, **media())

    assert len(data) == 65536
    assert await end_of_last_job(server) == (endpoint, 200)
    ((total, told),) = comfyui.bars
    assert total == 8 and told == sorted(told) and 1 <= told[-1] <= 8


async def test_an_interrupt_cancels_the_job(comfyui: ComfyUI, server: ClientServer) -> None:
    comfyui.interrupt_after = 2
    with pytest.raises(InterruptProcessingException):
        await video_of(TEXT, prompt="sleep 3600")

    assert await end_of_last_job(server) == ("text-to-video", 499)


async def test_a_refusal_is_told_in_the_servers_words(
    comfyui: ComfyUI, server: ClientServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="answered 422: num_frames: Input should be greater"):
        await video_of(TEXT, prompt="a red car", num_frames=8)
    monkeypatch.setenv("COSMOS_SERVE_KEY", "me:wrong")
    with pytest.raises(RuntimeError, match="answered 401: The key is not one of this server's"):
        await video_of(TEXT, prompt="a red car")
    monkeypatch.setenv("COSMOS_SERVE_URL", "http://127.0.0.1:1")
    with pytest.raises(RuntimeError, match=r"http://127\.0\.0\.1:1 does not answer"):
        await video_of(TEXT, prompt="a red car")


async def test_a_server_of_the_widgets_gets_their_key_and_not_the_environments(
    comfyui: ComfyUI, client_server: ClientServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSMOS_SERVE_KEY", KEY)
    with pytest.raises(RuntimeError, match="answered 401: This server needs a key"):
        await video_of(TEXT, prompt="a red car", server_url=client_server.http)

    data = await video_of(TEXT, prompt="a red car", server_url=client_server.http, key=KEY)

    assert len(data) == 65536


async def test_the_nodes_take_what_the_schemas_of_the_server_allow(comfyui: ComfyUI) -> None:
    fields = TextToVideoInput.model_json_schema()["properties"]
    for node in (await loaded_nodes()).values():
        for each in node.define_schema().inputs:
            if each.id in ("num_frames", "num_inference_steps", "guidance_scale"):
                schema, options = fields[each.id], each.options
                assert (options["min"], options["max"]) == (schema["minimum"], schema["maximum"])
                assert options["default"] == schema["default"]


def test_the_pack_has_what_the_registry_asks_for() -> None:
    project = tomllib.loads(pack_file("pyproject.toml").read_text())
    metadata = project["project"]

    assert "comfyui" not in metadata["name"].lower()
    assert {"version", "description", "license", "urls", "dependencies"} <= metadata.keys()
    assert metadata["urls"]["Repository"].startswith("https://")
    assert {"PublisherId", "DisplayName", "Icon"} <= project["tool"]["comfy"].keys()
    assert pack_file("requirements.txt").read_text().split() == metadata["dependencies"]
