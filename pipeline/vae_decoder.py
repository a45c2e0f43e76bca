"""The VAE's decoder for a GPU: the function of diffusers' `WanDecoder3d`, with less memory traffic.

Every convolution's input is made by one kernel (`pipeline.network.kernels.causal`), and where no
more frames come of one, the frames of a latent frame go through the layers one by one. That is
exact, because each convolution keeps what it has read of the frames before.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanAttentionBlock,
    WanCausalConv3d,
    WanDecoder3d,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
    WanUpBlock,
)
from torch import Tensor, nn
from torch.nn import functional

from pipeline.network.kernels.causal import causal_input, nothing_kept


def can_decode(vae: AutoencoderKLWan) -> bool:
    """Whether this VAE's decoder has the layers that are known here, and no others."""
    decoder = vae.decoder
    layers = [decoder, *(m for m in decoder.modules() if isinstance(m, WanResidualBlock))]
    norms = [m for m in decoder.modules() if isinstance(m, WanRMS_norm)]
    return (
        vae.config["patch_size"] is None
        and all(isinstance(block, WanUpBlock) for block in decoder.up_blocks)
        and all(isinstance(layer.nonlinearity, nn.SiLU) for layer in layers)
        and all(norm.channel_first and norm.bias == 0.0 for norm in norms)
    )


def decoder_channels(config: Mapping[str, Any]) -> tuple[int, ...]:
    """How many channels the decoder's layers have, from the checkpoint's `vae/config.json`."""
    base = config.get("decoder_base_dim") or config.get("base_dim", 96)
    return tuple(sorted({base * factor for factor in config.get("dim_mult", (1, 2, 4, 4))}))


class FrameDecoder:
    """Decodes the latent frames of one video, one after the other.

    What it keeps of one for the next are two frames for each convolution.
    """

    def __init__(self, decoder: WanDecoder3d) -> None:
        self._decoder: Any = decoder  # its lists have no item types
        self._kept: dict[nn.Module, Tensor] = {}
        self._is_first = True
        blocks = list(self._decoder.up_blocks)
        num_temporal = 1 + max(
            (index for index, block in enumerate(blocks) if _makes_frames(block)), default=-1
        )
        self._temporal, self._spatial = blocks[:num_temporal], blocks[num_temporal:]

    def decode(self, latent: Tensor) -> Tensor:
        """One frame for the first latent frame, four for each later one.

        Args:
            latent: [1, C, 1, height / 8, width / 8], what `post_quant_conv` makes of one.

        Returns:
            [1, 3, 1 or 4, height, width].
        """
        frames = self._convolve(self._decoder.conv_in, latent)
        first, *others = self._decoder.mid_block.resnets
        frames = self._residual(first, frames)
        for attention, resnet in zip(self._decoder.mid_block.attentions, others, strict=True):
            assert isinstance(attention, WanAttentionBlock)
            frames = self._residual(resnet, attention(frames))
        for block in self._temporal:
            frames = self._up(block, frames)
        decoded = [self._finish(frame) for frame in torch.split(frames, 1, dim=2)]
        self._is_first = False
        return torch.cat(decoded, dim=2)

    def _finish(self, frame: Tensor) -> Tensor:
        for block in self._spatial:
            frame = self._up(block, frame)
        return self._convolve(self._decoder.conv_out, frame, self._decoder.norm_out)

    def _up(self, block: Any, frames: Tensor) -> Tensor:
        for resnet in block.resnets:
            frames = self._residual(resnet, frames)
        for resample in block.upsamplers or ():
            frames = self._upsample(resample, frames)
        return frames

    def _residual(self, block: WanResidualBlock, frames: Tensor) -> Tensor:
        kept = frames
        if isinstance(block.conv_shortcut, nn.Conv3d):
            kept = _convolved(block.conv_shortcut, frames)
        # Each statement frees what the one before it read.
        frames = self._input(block.conv1, frames, block.norm1)
        frames = _convolved(block.conv1, frames)
        frames = self._input(block.conv2, frames, block.norm2)
        frames = _convolved(block.conv2, frames)
        return frames.add_(kept)

    def _upsample(self, resample: WanResample, frames: Tensor) -> Tensor:
        """Twice the height and width, and, but for a video's first frame, twice the frames."""
        if resample.mode == "upsample3d" and not self._is_first:
            frames = _interleave(self._convolve(resample.time_conv, frames))
        pictures = frames.transpose(1, 2).flatten(0, 1)
        # diffusers does so in float32: it copies, so no bit is lost without.
        pictures = functional.interpolate(pictures, scale_factor=(2.0, 2.0), mode="nearest-exact")
        convolution: Any = resample.resample[1]
        pictures = functional.conv2d(pictures, convolution.weight, convolution.bias, padding=1)
        return pictures.view(frames.shape[0], -1, *pictures.shape[1:]).transpose(1, 2)

    def _convolve(
        self, convolution: WanCausalConv3d, frames: Tensor, norm: WanRMS_norm | None = None
    ) -> Tensor:
        return _convolved(convolution, self._input(convolution, frames, norm))

    def _input(
        self, convolution: WanCausalConv3d, frames: Tensor, norm: WanRMS_norm | None
    ) -> Tensor:
        if convolution not in self._kept:
            self._kept[convolution] = nothing_kept(frames)
        # diffusers keeps the padding of width, height and frames here, and zero in `padding`.
        padding = int(convolution._padding[0])
        return causal_input(frames, self._kept[convolution], padding, norm)


def _convolved(convolution: nn.Conv3d, frames: Tensor) -> Tensor:
    """The convolution alone: `WanCausalConv3d` would pad what is padded."""
    result: Tensor = convolution._conv_forward(frames, convolution.weight, convolution.bias)
    return result


def _makes_frames(block: nn.Module) -> bool:
    return any(
        isinstance(module, WanResample) and module.mode == "upsample3d"
        for module in block.modules()
    )


def _interleave(frames: Tensor) -> Tensor:
    """[B, 2 * C, T, H, W] -> [B, C, 2 * T, H, W]: the two halves of the channels take turns."""
    first, second = frames.chunk(2, dim=1)
    is_last = frames.is_contiguous(memory_format=torch.channels_last_3d)
    both = torch.empty(
        (*first.shape[:2], 2 * first.shape[2], *first.shape[3:]),
        dtype=frames.dtype,
        device=frames.device,
        memory_format=torch.channels_last_3d if is_last else torch.contiguous_format,
    )
    both[:, :, 0::2], both[:, :, 1::2] = first, second
    return both
