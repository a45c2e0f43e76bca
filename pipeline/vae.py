"""Pictures to latent frames, and latents to frames, one latent frame after the other."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from torch import Tensor

from pipeline.guardrail import Frame
from pipeline.spec import Pixels
from pipeline.vae_decoder import FrameDecoder, can_decode

LATENT_CHANNELS = 16
PIXELS_PER_CELL = 8
"""Of the latents' height and width, to those of a picture."""


def to_video(pictures: Sequence[Pixels]) -> Tensor:
    """Pictures of one size -> [1, 3, pictures, height, width] float32 in -1..1."""
    frames = [
        np.frombuffer(picture.rgb, dtype=np.uint8).reshape(picture.height, picture.width, 3)
        for picture in pictures
    ]
    # [pictures, height, width, 3] 0..255 -> [1, 3, pictures, height, width] 0..1
    unit = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None].float() / 255
    return 2 * unit - 1


@torch.inference_mode()
def encode(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """The latents of a video, [1, 16, T, height / 8, width / 8] float32, normalised.

    The VAE is causal, so these are the bits that the first latent frames of any longer video
    starting with the same frames would have.

    Args:
        video: [1, 3, 1 + 4 * (T - 1), height, width] in -1..1.
    """
    try:
        latents: Tensor = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
    finally:
        # It does so by itself, but not where memory has run out.
        vae.clear_cache()  # type: ignore[no-untyped-call]  # diffusers'
    mean, inverse_std = _statistics(vae, latents.device)
    return (latents - mean) * inverse_std


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Iterator[Frame]:
    """The frames of `latents` as pictures, [height, width, 3] uint8; see `decode_video`."""
    for frames in decode_video(vae, latents):
        yield from to_frames(frames)


@torch.inference_mode()
def decode_video(vae: AutoencoderKLWan, latents: Tensor) -> Iterator[Tensor]:
    """The frames of `latents`, [1, 16, T, height / 8, width / 8] float32: 1, then 4 a latent frame.

    Yields [1, 3, 1 or 4, height, width] in -1..1 as soon as the latent frame is decoded. What the
    decoder remembers between latent frames lives in this call, so one that is given up leaves
    nothing behind for the next.
    """
    mean, inverse_std = _statistics(vae, latents.device)
    scaled = (latents / inverse_std + mean).to(vae.dtype)
    hidden = vae.post_quant_conv(scaled)
    decode_frame = _frame_decoder(vae)
    for latent in torch.split(hidden, 1, dim=2):
        yield decode_frame(latent).clamp(-1, 1)


def _frame_decoder(vae: AutoencoderKLWan) -> Callable[[Tensor], Tensor]:
    """What decodes the latent frames of one video in turn: on a GPU, ours."""
    if vae.device.type == "cuda" and can_decode(vae):
        return FrameDecoder(vae.decoder).decode
    num_convolutions = sum(isinstance(m, WanCausalConv3d) for m in vae.decoder.modules())
    cache: list[Any] = [None] * num_convolutions

    def decode_frame(latent: Tensor) -> Tensor:
        is_first = all(kept is None for kept in cache)
        video: Tensor = vae.decoder(latent, feat_cache=cache, feat_idx=[0], first_chunk=is_first)
        return video

    return decode_frame


def to_frames(video: Tensor) -> Iterator[Frame]:
    """[1, 3, frames, height, width] in -1..1 -> frames of [height, width, 3] uint8, rounded."""
    levels = ((video[0].float() + 1) * 127.5).round().to(torch.uint8)
    yield from levels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def _statistics(vae: AutoencoderKLWan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of each latent channel, [1, 16, 1, 1, 1] float32."""
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config["latents_mean"], device=device).view(shape)
    std = torch.tensor(vae.config["latents_std"], device=device).view(shape)
    return mean, 1.0 / std
