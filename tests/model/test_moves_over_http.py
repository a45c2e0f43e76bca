"""What a prompt asks for is seen in the videos that a server hands out, in every kind of file."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import httpx
import numpy as np
import pytest
from paths import ROOT
from servers import ENDPOINT, start_server
from stand_ins import stand_in

from benchmarks.motion import Grey, grey, path, psnr_db
from pipeline.image import prepare
from pipeline.spec import Container

WIDTH, HEIGHT = 96, 64
FRAMES, STEPS, PX_A_FRAME = 9, 4, 2


@dataclass(frozen=True, slots=True)
class Order:
    """A request, and which way its picture is to go, in x and y."""

    photograph: str
    prompt: str
    direction: tuple[int, int]

    @property
    def file(self) -> bytes:
        return (ROOT / "benchmarks" / "photographs" / f"{self.photograph}.png").read_bytes()

    def body(self, container: Container) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "image_url": f"data:image/png;base64,{base64.b64encode(self.file).decode()}",
            "num_frames": FRAMES,
            "num_inference_steps": STEPS,
            # In so small a video the noise of some seeds is stronger than the word.
            "seed": 1,
            "video_output_type": container.value,
        }


ORDERS = {
    Container.X264: Order("chelsea", "The camera pans right.", (1, 0)),
    Container.VP9: Order("china", "The camera pans left.", (-1, 0)),
    Container.PRORES4444: Order("rocket", "The camera tilts up.", (0, -1)),
    Container.GIF: Order("seeding", "The camera tilts down.", (0, 1)),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Container, list[Grey]]]:
    """The frames of the four orders, which are sent before the first of them is made."""
    folder = tmp_path_factory.mktemp("site")
    checkpoint = stand_in(width=WIDTH, height=HEIGHT, weights="moving")
    (folder / "checkpoint").symlink_to(checkpoint)
    server = start_server(folder, COSMOS_WORKER="server.workers.gpu:GpuWorker")
    with httpx.Client(base_url=server.http, timeout=60) as client:
        submitted = {
            container: client.post(f"/queue/{ENDPOINT}", json=order.body(container)).json()
            for container, order in ORDERS.items()
        }
        yield {container: _frames(client, urls) for container, urls in submitted.items()}
    assert server.end() == 0


def _frames(client: httpx.Client, urls: dict[str, str]) -> list[Grey]:
    # Returns when the job has ended.
    assert "COMPLETED" in client.get(f"{urls['status_url']}/stream", timeout=120).text
    video = client.get(client.get(urls["response_url"]).json()["video"]["url"]).content
    with av.open(io.BytesIO(video), "r") as opened:
        return [grey(frame.to_ndarray(format="rgb24")) for frame in opened.decode(video=0)]


@pytest.mark.parametrize("container", ORDERS, ids=lambda container: container.suffix)
def test_the_picture_goes_where_its_prompt_says(
    videos: dict[Container, list[Grey]], container: Container
) -> None:
    frames = videos[container]
    assert len(frames) == FRAMES
    wanted = [PX_A_FRAME * (FRAMES - 1) * step for step in ORDERS[container].direction]
    assert path(frames)[-1] == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize("container", ORDERS, ids=lambda container: container.suffix)
def test_each_of_the_jobs_sent_at_once_begins_with_its_own_picture(
    videos: dict[Container, list[Grey]], container: Container
) -> None:
    likeness = {
        order.photograph: psnr_db(videos[container][0], _given(order)) for order in ORDERS.values()
    }
    own = likeness.pop(ORDERS[container].photograph)
    assert own > 20 > max(likeness.values())


def _given(order: Order) -> Grey:
    pixels = prepare(order.file, WIDTH, HEIGHT)
    return grey(np.frombuffer(pixels.rgb, np.uint8).reshape(HEIGHT, WIDTH, 3))
