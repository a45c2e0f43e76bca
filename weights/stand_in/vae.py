"""Wan 2.1's VAE as a chain of linear layers: a trained encoder and decoder with nothing between.

Every residual branch is zero. What is trained are convolutions that see 8x8 pixels and their
neighbours; `train_vae.py` made the numbers in `vae.safetensors`. Four frames of a latent frame show
the picture of the last of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from torch import Tensor

NUMBERS = Path(__file__).with_name("vae.safetensors")
COLOURS = 14
ENCODER_LEVEL, DECODER_LEVEL = 200.0, 6.0
"""A constant beside the numbers, so large that the last norm divides by it and not by them."""


def config() -> dict[str, Any]:
    """The arguments of AutoencoderKLWan."""
    return {
        "base_dim": 12,
        "decoder_base_dim": 8,
        "z_dim": 16,
        "dim_mult": [1, 2, 8, 8],
        "num_res_blocks": 1,
        "latents_mean": [0.0] * 16,
        "latents_std": [1.0] * 16,
    }


def construct(vae: "AutoencoderKLWan") -> None:
    """Write every weight, in place."""
    import torch
    from safetensors.torch import load_file

    numbers = {name: value.float() for name, value in load_file(NUMBERS).items()}
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            parameter.fill_(1 if name.endswith("gamma") else 0)
        _encoder(vae.encoder, numbers)
        _decoder(vae.decoder, numbers)
        for channel in range(COLOURS):
            vae.quant_conv.weight[channel, channel] = 1
            vae.post_quant_conv.weight[channel, channel] = 1
        # The logarithm of the latents' variance: they are what they are.
        assert vae.quant_conv.bias is not None
        vae.quant_conv.bias[16:] = -20


def _encoder(encoder: Any, numbers: "dict[str, Tensor]") -> None:
    _put(encoder.conv_in.weight, numbers["encode.0"])
    resamples = [part for part in encoder.down_blocks if hasattr(part, "resample")]
    for part in encoder.down_blocks:
        _pass_on(getattr(part, "conv_shortcut", None))
    for index, part in enumerate(resamples):
        if hasattr(part, "time_conv"):
            # Of the four frames the last is kept.
            _pass_on_last(part.time_conv)
        if index < len(resamples) - 1:
            _put(part.resample[1].weight, numbers[f"encode.{index + 1}"])
    last = resamples[-1].resample[1]
    for sign, rows in ((1, slice(0, 16)), (-1, slice(16, 32))):
        _put(last.weight[rows], sign * numbers["encode.3"])
        last.bias[rows][:COLOURS] = sign * numbers["encode.bias"]
    last.bias[32] = ENCODER_LEVEL
    # silu(x) - silu(-x) = x, and the norm made x / ENCODER_LEVEL of it.
    gain = ENCODER_LEVEL / len(last.bias) ** 0.5
    for channel in range(COLOURS):
        encoder.conv_out.weight[channel, channel, 2, 1, 1] = gain
        encoder.conv_out.weight[channel, 16 + channel, 2, 1, 1] = -gain


def _decoder(decoder: Any, numbers: "dict[str, Tensor]") -> None:
    _put(decoder.conv_in.weight, numbers["decode.in"])
    resamples = []
    for block in decoder.up_blocks:
        for part in block.resnets:
            _pass_on(getattr(part, "conv_shortcut", None))
        if block.upsamplers is not None:
            resamples.append(block.upsamplers[0])
    _put(decoder.up_blocks[2].resnets[0].conv_shortcut.weight, numbers["decode.shortcut"])
    for index, part in enumerate(resamples):
        if hasattr(part, "time_conv"):
            width = part.time_conv.weight.shape[1]
            for frame in range(2):
                _pass_on_last(part.time_conv, slice(frame * width, (frame + 1) * width))
        _put(part.resample[1].weight, numbers[f"decode.{index}"])
    last = resamples[-1].resample[1]
    _put(last.weight[3:6], -numbers["decode.2"])
    last.bias[6] = DECODER_LEVEL
    gain = DECODER_LEVEL / len(last.bias) ** 0.5
    out = decoder.conv_out
    _put(out.weight[:, :3], gain * numbers["decode.out"])
    _put(out.weight[:, 3:], -gain * numbers["decode.out"])
    out.bias.copy_(numbers["decode.bias"])


def _put(weight: "Tensor", numbers: "Tensor") -> None:
    """Write a kernel over the first channels; one of two dimensions at the last of three frames."""
    if weight.ndim == numbers.ndim + 1:
        weight = weight[:, :, -1]
    weight[: numbers.shape[0], : numbers.shape[1]] = numbers


def _pass_on(shortcut: Any) -> None:
    """Let a residual block pass its input on, where its shortcut is a convolution."""
    if shortcut is not None and hasattr(shortcut, "weight"):
        weight = shortcut.weight
        for channel in range(min(weight.shape[:2])):
            weight[channel, channel, 0, 0, 0] = 1


def _pass_on_last(convolution: Any, rows: slice = slice(None)) -> None:
    """Let a convolution over three frames pass the last one on."""
    weight = convolution.weight[rows]
    for channel in range(weight.shape[1]):
        weight[channel, channel, 2, 0, 0] = 1


def half_shifts() -> "dict[str, Tensor]":
    """By direction, the matrices that move a token by half a cell; see `transformer.construct`."""
    from safetensors.torch import load_file

    numbers = load_file(NUMBERS).items()
    return {name[5:]: value.float() for name, value in numbers if name.startswith("half.")}
