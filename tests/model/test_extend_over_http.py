"""A clip goes on for as many chunks as the endpoint may make, by the real worker."""

import io
import json
from pathlib import Path

import av
import httpx
import pytest
from checkpoint_files import write_json
from clips import clip
from servers import data_uri, start_server
from stand_ins import stand_in

from server.fal.endpoints import EXTEND

AT_ONCE = 9
FRAMES, CHUNKS, STEPS = AT_ONCE + 3 * (AT_ONCE - 5), 4, 1


@pytest.mark.slow
def test_a_clip_goes_on_for_four_chunks(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for each in stand_in().iterdir():
        (checkpoint / each.name).symlink_to(each)
    profile = json.loads((checkpoint / "cosmos_serve.json").read_text())
    (checkpoint / "cosmos_serve.json").unlink()
    write_json(checkpoint / "cosmos_serve.json", profile | {"max_frames": AT_ONCE})
    body = {"prompt": "A calm sea.", "video_url": data_uri(clip()), "num_inference_steps": STEPS}

    server = start_server(tmp_path, COSMOS_WORKER="server.workers.gpu:GpuWorker")
    with httpx.Client(base_url=server.http, timeout=60) as client:
        long = body | {"num_frames": FRAMES, "resample_fps": True}
        urls = client.post(f"/queue/{EXTEND}", json=long).json()
        events = client.get(f"{urls['status_url']}/stream?logs=1", timeout=120).text
        video = client.get(urls["response_url"]).json()["video"]
        with av.open(io.BytesIO(client.get(video["url"]).content), "r") as opened:
            shown = sum(1 for _ in opened.decode(video=0))
    assert server.end() == 0

    assert (shown, video["num_frames"]) == (FRAMES, FRAMES)
    for step in range(1, CHUNKS * STEPS + 1):
        assert f"Step {step} of {CHUNKS * STEPS}," in events
