"""A video while it is denoised: what a step takes to be clean, as a small animated picture.

Previews are made in a thread of their own, and on a GPU on a stream of their own. They read the
latents that a step leaves and write none, so the video is the same to the bit with them or without.
"""

import io
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from pipeline.errors import ContentPolicyViolation
from pipeline.guardrail import Frame, Guardrail, judged_frames
from pipeline.spec import FPS, FRAMES_PER_LATENT, latent_frames
from pipeline.vae import LATENT_CHANNELS, PIXELS_PER_CELL, encode

EVERY_S = 2.0
"""A preview is made after a step if the one before was begun so long ago, or the steps were."""

MAX_SIDE = 320
"""Of a preview, in pixels: one of more is made smaller."""

MAX_BYTES = 256 * 1024
"""Of a preview: one that takes more is not shown."""

_QUALITY = 60
_FASTEST = 0
"""Of the ways in which WebP looks for a smaller file."""

_RIDGE = 1e-2
"""Of the fit, beside latents of deviation 1: a channel that the chart does not move has no say."""

OnClean = Callable[[Tensor], None]
"""Takes what a step takes to be the clean latents, [1, 16, T, height / 8, width / 8]."""


Sketch = Callable[[Tensor], Tensor]
"""Turns latents into small pictures, cheaply: [1, 16, T, height / 8, width / 8], normalised, into
[T, any height, any width, 3] uint8."""


@dataclass(frozen=True, slots=True)
class LatentRgb:
    """One pixel for each latent cell, whose colour is a linear function of its channels.

    `factors` are [16, 3] and `bias` is [3], float32 on the device of the latents; colours are in
    -1..1.
    """

    factors: Tensor
    bias: Tensor

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Sketch`."""
        return to_levels(latents[0].float().permute(1, 2, 3, 0) @ self.factors + self.bias)


def to_levels(colours: Tensor) -> Tensor:
    """Colours in -1..1, and some beyond it -> uint8."""
    return ((colours + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def fit_latent_rgb(vae: AutoencoderKLWan) -> LatentRgb:
    """The factors of a VAE, by least squares over the cells of a chart that it encodes.

    The VAE has to be on its device.
    """
    chart = colour_chart()
    latents = encode(vae, chart)
    # The first latent frame is one frame of the chart, and each later one four that are the same.
    shown = chart[0, :, ::FRAMES_PER_LATENT].transpose(0, 1)
    colours = avg_pool2d(shown, PIXELS_PER_CELL).permute(0, 2, 3, 1).reshape(-1, 3).double()
    cells = latents[0].permute(1, 2, 3, 0).reshape(-1, LATENT_CHANNELS).double().cpu()
    means = cells.mean(0), colours.mean(0)
    cells, colours = cells - means[0], colours - means[1]
    ridge = _RIDGE * len(cells) * torch.eye(LATENT_CHANNELS, dtype=torch.float64)
    factors = torch.linalg.solve(cells.T @ cells + ridge, cells.T @ colours)
    bias = means[1] - means[0] @ factors
    return LatentRgb(factors.float().to(latents.device), bias.float().to(latents.device))


def colour_chart() -> Tensor:
    """Colours that change as softly as those of photographs, [1, 3, 5, 256, 256] in -1..1.

    All five frames are the same: random colours of several coarsenesses, the finer the fainter.
    """
    size, generator = 256, torch.Generator().manual_seed(0)
    chart = torch.zeros(1, 3, size, size)
    for cells in (2, 4, 8, 16, 32, 64):
        colours = 2 * torch.rand(1, 3, cells, cells, generator=generator) - 1
        soft = interpolate(colours, (size, size), mode="bicubic")
        chart += 0.6 * (2 / cells) ** 0.5 * soft
    return chart.clamp(-1, 1)[:, :, None].repeat(1, 1, 1 + FRAMES_PER_LATENT, 1, 1)


def animation(frames: Sequence[Frame]) -> bytes:
    """A WebP file that shows one frame for each latent frame, as long as the video does."""
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
    first, *others = pictures
    file = io.BytesIO()
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=1000 * FRAMES_PER_LATENT // FPS,
        loop=0,
        quality=_QUALITY,
        method=_FASTEST,
    )
    return file.getvalue()


@contextmanager
def previews(
    sketch: Sketch | None, guardrail: Guardrail, show: Callable[[bytes], None] | None
) -> Iterator[OnClean]:
    """What makes the previews of one video, for the time of the block.

    After the block nothing is shown any more.

    Args:
        guardrail: judges of a preview the frames that it would judge of the video.
        show: takes each preview, a WebP file, in another thread; None if nobody looks.
    """
    if sketch is None or show is None:
        yield lambda _clean: None
        return
    maker = _PreviewMaker(sketch, guardrail, show)
    try:
        yield maker.offer
    finally:
        maker.close()


class _PreviewMaker:
    """Makes one preview at a time, and none of what is offered meanwhile: a later one is better."""

    def __init__(self, sketch: Sketch, guardrail: Guardrail, show: Callable[[bytes], None]) -> None:
        self._sketch = sketch
        self._guardrail = guardrail
        self._show = show
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="preview")
        self._made: Future[None] | None = None
        self._begun = monotonic()

    def offer(self, clean: Tensor) -> None:
        """Begin a preview, if it is time for one; `clean` may not be written to any more."""
        is_busy = self._made is not None and not self._made.done()
        now = monotonic()
        if is_busy or now - self._begun < EVERY_S:
            return
        self._begun = now
        self._made = self._thread.submit(self._make, clean, _computed(clean))

    def close(self) -> None:
        """Wait until nothing is being made."""
        self._thread.shutdown(cancel_futures=True)

    def _make(self, clean: Tensor, computed: torch.cuda.Event | None) -> None:
        try:
            frames = self._frames(clean, computed)
            shown = 1 + FRAMES_PER_LATENT * (len(frames) - 1)
            for index in sorted(judged_frames(shown)):
                self._guardrail.check_frame(index, frames[latent_frames(index + 1) - 1])
            data = animation(frames)
            if len(data) <= MAX_BYTES:
                self._show(data)
        except ContentPolicyViolation:
            pass  # the video may pass: this is a rough picture of it
        except Exception:
            # Of a device that failed, or a server that is gone, the video hears itself.
            traceback.print_exc()

    @torch.inference_mode()
    def _frames(self, clean: Tensor, computed: torch.cuda.Event | None) -> Sequence[Frame]:
        if computed is None:
            return list(self._sketch(clean).numpy())
        stream = torch.cuda.Stream(clean.device)  # type: ignore[no-untyped-call]  # torch's
        with torch.cuda.stream(stream):
            computed.wait()
            # This thread waits for the copy, so the memory is free when `clean` is let go.
            return list(self._sketch(clean).cpu().numpy())


def _computed(tensor: Tensor) -> torch.cuda.Event | None:
    """Passes when a GPU has computed the tensor; None on a CPU, where it is there."""
    if tensor.device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
    event.record()
    return event
