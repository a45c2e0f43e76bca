"""OpenAI's own SDK, and LiteLLM's, against the server's `/v1/videos`."""

import json
from typing import Any

import pytest
from client_programs import ENVIRONMENTS, not_here, run_python
from client_servers import KEY, ClientServer
from servers import data_uri, picture
from workers import BYTES, THUMBNAIL

pytestmark = pytest.mark.clients

APP = "fal-ai/cosmos-predict-2.5"
LITELLM = ENVIRONMENTS / "litellm@1.110.2" / "bin" / "python"
"""In an environment of its own: it brings sixty packages."""

HEAD = """
import base64, io, json, time

def show(*values):
    print("shown", json.dumps(values))

picture = base64.b64decode("PICTURE")
""".replace("PICTURE", data_uri(picture()).partition(",")[2])

OPENAI = """
import openai

client = openai.OpenAI()
short = {"num_frames": 9, "num_inference_steps": 2, "seed": 7}
"""

LITELLM_HEAD = """
import os
import litellm

here = {
    "api_base": os.environ["HOSTED_VLLM_API_BASE"],
    "api_key": os.environ["HOSTED_VLLM_API_KEY"],
    "custom_llm_provider": "hosted_vllm",
}
short = {"num_frames": 9, "num_inference_steps": 2, "seed": 7}
"""


def shown(lines: list[str]) -> list[Any]:
    """What a program showed; libraries print, too."""
    return [json.loads(line[6:]) for line in lines if line.startswith("shown ")]


def by_openai(server: ClientServer, code: str) -> list[Any]:
    environment = {"OPENAI_BASE_URL": f"{server.http}/v1", "OPENAI_API_KEY": KEY}
    return shown(run_python(HEAD + OPENAI + code, environment))


def by_litellm(server: ClientServer, code: str) -> list[Any]:
    if not LITELLM.exists():
        not_here("LiteLLM is not installed: `make test-clients` does it.")
    environment = {
        "HOSTED_VLLM_API_BASE": f"{server.http}/v1",
        "HOSTED_VLLM_API_KEY": KEY,
        # Its prices come with it: it asks nobody for them.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    return shown(run_python(HEAD + LITELLM_HEAD + code, environment, str(LITELLM)))


@pytest.mark.shows("openai 3.57.0", "submit", "result", "download")
def test_openais_sdk_makes_a_video_and_downloads_it(client_server: ClientServer) -> None:
    code = """
for more in ({}, {"input_reference": ("a.png", picture)}, {"input_reference": picture}):
    video = client.videos.create_and_poll(
        prompt="a red car", seconds="1", extra_body={"num_inference_steps": 2}, **more
    )
    show(video.model, video.status, video.progress, video.seconds, video.error)
show(*(len(client.videos.download_content(video.id, variant=variant).read())
       for variant in ("video", "thumbnail")))
"""
    made = ["completed", 100, "1", None]
    assert by_openai(client_server, code) == [
        [f"{APP}/text-to-video", *made],
        *[[f"{APP}/image-to-video", *made]] * 2,
        [BYTES, len(THUMBNAIL)],
    ]


@pytest.mark.shows("openai 3.57.0", "cancel")
def test_openais_sdk_lists_and_deletes(client_server: ClientServer) -> None:
    code = """
videos = [client.videos.create(prompt="a red car", extra_body=short) for _ in range(3)]
running = client.videos.create(prompt="sleep 3600", extra_body=short)
pages = client.videos.list(limit=2)
listed = [each.id for each in pages]
show(listed[:4] == [each.id for each in (running, *reversed(videos))], pages.has_more)
gone = client.videos.delete(running.id)
show(gone.deleted, gone.object)
try:
    client.videos.retrieve(running.id)
except openai.NotFoundError as error:
    show(error.message)
show(client.videos.create_and_poll(prompt="a red car", extra_body=short).status)
"""
    listed, gone, missing, after = by_openai(client_server, code)

    assert listed == [True, True]
    assert gone == [True, "video.deleted"]
    assert "Video not found" in missing[0]
    assert after == ["completed"]


@pytest.mark.shows("openai 3.57.0", "validation error")
def test_openais_sdk_reads_our_errors(client_server: ClientServer) -> None:
    code = """
try:
    client.videos.create(prompt="a red car", seconds="12")
except openai.BadRequestError as error:
    show(error.param, error.code, error.type, "less than or equal to 93" in error.message)
try:
    client.with_options(api_key="me:wrong").videos.list()
except openai.AuthenticationError as error:
    show(error.status_code)
failed = client.videos.create_and_poll(prompt="raise", extra_body=short)
show(failed.status, failed.error.code)
try:
    client.videos.download_content(failed.id)
except openai.NotFoundError as error:
    show(error.message)
"""
    invalid, wrong, failed, nothing = by_openai(client_server, code)

    assert invalid == ["seconds", "less_than_equal", "invalid_request_error", True]
    assert (wrong, failed) == ([401], ["failed", "internal_error"])
    assert "This video is failed" in nothing[0]


@pytest.mark.shows("litellm 1.110.2", "submit", "result", "download", "validation error")
def test_litellm_makes_a_video_and_downloads_it(client_server: ClientServer) -> None:
    code = """
text, image = (f"fal-ai/cosmos-predict-2.5/{each}-to-video" for each in ("text", "image"))
for model, more in ((text, {}), (image, {"input_reference": io.BytesIO(picture)})):
    video = litellm.video_generation(prompt="a red car", model=model, **short, **more, **here)
    while video.status in ("queued", "in_progress"):
        time.sleep(0.05)
        video = litellm.video_status(video.id, **here)
    show(video.model, video.status, video.progress, video.seconds)
show(*(len(litellm.video_content(video.id, variant=variant, **here))
       for variant in (None, "thumbnail")))
show(litellm.video_list(**here)["data"][0]["id"] is not None)
try:
    litellm.video_generation(prompt="a red car", model=text, seconds="12", **here)
except litellm.BadRequestError as error:
    show(error.status_code, "less than or equal to 93" in error.message)
"""
    made = ["completed", 100, "0.5625"]
    assert by_litellm(client_server, code) == [
        [f"{APP}/text-to-video", *made],
        [f"{APP}/image-to-video", *made],
        [BYTES, len(THUMBNAIL)],
        [True],
        [400, True],
    ]
