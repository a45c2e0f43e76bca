"""The nodes: a prompt, and perhaps a picture or a video, become a video."""

import io as files
from collections.abc import Mapping
from typing import Any

import numpy as np
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension, InputImpl, Types, io
from PIL import Image

from .client import DEFAULT_URL, KEY_VARIABLE, URL_VARIABLE, CosmosServer


class TextToVideo(io.ComfyNode):
    """A prompt becomes a video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows of the node."""
        return _schema("TextToVideo", "text to video")

    @classmethod
    async def execute(cls, **widgets: Any) -> io.NodeOutput:
        """Have the video made."""
        return await _made("text-to-video", widgets)


class ImageToVideo(io.ComfyNode):
    """A picture becomes the first frame of a video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows of the node."""
        picture = io.Image.Input("image", tooltip="The first frame; of a batch, the first image.")
        return _schema("ImageToVideo", "image to video", picture)

    @classmethod
    async def execute(cls, image: Any, **widgets: Any) -> io.NodeOutput:
        """Have the video made."""
        file = ("image_url", _png(image), "image.png", "image/png")
        return await _made("image-to-video", widgets, file)


class VideoToVideo(io.ComfyNode):
    """A video goes on from its last five frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What ComfyUI shows of the node."""
        clip = io.Video.Input("video", tooltip="The new video goes on from its last five frames.")
        return _schema("VideoToVideo", "video to video", clip)

    @classmethod
    async def execute(cls, video: Any, **widgets: Any) -> io.NodeOutput:
        """Have the video made."""
        file = ("video_url", _mp4(video), "video.mp4", "video/mp4")
        return await _made("video-to-video", widgets, file)


class CosmosServeExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Its nodes."""
        return [TextToVideo, ImageToVideo, VideoToVideo]


async def comfy_entrypoint() -> CosmosServeExtension:
    """What ComfyUI calls when it loads the pack."""
    return CosmosServeExtension()


def _schema(name: str, title: str, *media: Any) -> io.Schema:
    """A node with these inputs before the widgets that all nodes have."""
    return io.Schema(
        node_id=f"CosmosServe{name}",
        display_name=f"Cosmos {title} (cosmos-serve)",
        category="video/cosmos-serve",
        description="Made by NVIDIA Cosmos-Predict2.5-2B on a cosmos-serve server.",
        inputs=[
            *media,
            io.String.Input("prompt", multiline=True, default=""),
            io.String.Input(
                "negative_prompt",
                multiline=True,
                default="",
                tooltip="What the video should not show. Empty: the model's own negative prompt.",
            ),
            io.Int.Input("num_frames", default=93, min=9, max=93, tooltip="At 16 a second."),
            io.Int.Input("num_inference_steps", default=35, min=1, max=50),
            io.Float.Input("guidance_scale", default=7.0, min=1.0, max=20.0, step=0.1),
            io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=True),
            io.String.Input(
                "server_url",
                default="",
                optional=True,
                tooltip=f"The server. {URL_VARIABLE} in ComfyUI's environment goes before it; "
                f"without either it is {DEFAULT_URL}.",
            ),
            io.String.Input(
                "key",
                default="",
                optional=True,
                tooltip="A key of that server. It is saved with the workflow: better leave it "
                f"empty, and set {URL_VARIABLE} and {KEY_VARIABLE} in ComfyUI's environment.",
            ),
        ],
        outputs=[io.Video.Output()],
    )


async def _made(
    endpoint: str, widgets: Mapping[str, Any], file: tuple[str, bytes, str, str] | None = None
) -> io.NodeOutput:
    """The node's output: a video of an endpoint, from the widgets and the file of a field."""
    body = dict(widgets)
    url, key = body.pop("server_url", ""), body.pop("key", "")
    if not body["negative_prompt"]:
        del body["negative_prompt"]
    progress = ProgressBar(body["num_inference_steps"])
    async with CosmosServer(url, key) as server:
        if file is not None:
            field, data, name, content_type = file
            body[field] = await server.upload(data, name, content_type)
        video = await server.video(
            endpoint,
            body,
            on_step=progress.update_absolute,
            check=throw_exception_if_processing_interrupted,
        )
    return io.NodeOutput(InputImpl.VideoFromFile(files.BytesIO(video)))


def _png(image: Any) -> bytes:
    """The first image of a batch [B, H, W, C] of 0 to 1."""
    pixels = np.clip(image[0].cpu().numpy() * 255 + 0.5, 0, 255).astype(np.uint8)
    file = files.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _mp4(video: Any) -> bytes:
    """A video as a file, with what was cut off of it."""
    file = files.BytesIO()
    video.save_to(file, format=Types.VideoContainer.MP4, codec=Types.VideoCodec.H264)
    return file.getvalue()
