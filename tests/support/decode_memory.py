"""A program: decode and encode random latents, and print the peak memory that it took.

    decode_memory.py CHECKPOINT NUM_FRAMES OUT

Prints a JSON object of MiB: `python`, the peak of this process above its start, and `ffmpeg`, the
peak of ffmpeg by VmHWM.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from modules import load_vae

from pipeline.encode import encode_video
from pipeline.guardrail import Frame
from pipeline.spec import Container, Quality, latent_frames
from pipeline.vae import decode
from weights.store import WeightStore

_MIB = 2**20


def _peak_mib(process: psutil.Process) -> float:
    """VmHWM, the kernel's own record of the peak."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    checkpoint, num_frames, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    store = WeightStore(checkpoint)
    width, height = store.profile.width, store.profile.height
    vae = load_vae(store)
    shape = (1, 16, latent_frames(num_frames), height // 8, width // 8)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    this = psutil.Process()
    start_mib = this.memory_info().rss / _MIB
    ffmpeg_mib = 0.0

    def watched() -> Iterator[Frame]:
        nonlocal ffmpeg_mib
        for frame in decode(vae, latents):
            for child in this.children():
                ffmpeg_mib = max(ffmpeg_mib, _peak_mib(child))
            yield frame

    # Resets VmHWM, so that loading does not count.
    Path("/proc/self/clear_refs").write_text("5")
    encode_video(
        watched(),
        Container.X264,
        Quality.HIGH,
        width=width,
        height=height,
        num_frames=num_frames,
        out=out,
        check=lambda: None,
    )
    print(json.dumps({"python": _peak_mib(this) - start_mib, "ffmpeg": ffmpeg_mib}))


if __name__ == "__main__":
    main()
