"""Wan 2.1's VAE as a chain of linear layers: a trained encoder and decoder with nothing between.

What is trained are convolutions that see 8x8 pixels and their neighbours; `train_vae.py` made the
numbers in `vae.safetensors`. Every residual branch of the encoder is zero: of four frames it keeps
the last. Those of the decoder make the frames in between: see `in_between.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from weights.stand_in import in_between
from weights.stand_in.layout import CELLS, COLOURS, MOVES, SPEEDS

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from torch import Tensor

NUMBERS = Path(__file__).with_name("vae.safetensors")
LEVEL = 2000.0
"""A constant beside the numbers, so large that the last norms divide by it and not by them."""


def config() -> dict[str, Any]:
    """The arguments of AutoencoderKLWan."""
    return {
        "base_dim": 6,
        "decoder_base_dim": 8,
        "z_dim": 16,
        "dim_mult": [1, 2, 8, 7],
        "num_res_blocks": 1,
        "latents_mean": [0.0] * 16,
        "latents_std": [1.0] * 16,
    }


def construct(vae: "AutoencoderKLWan") -> None:
    """Write every weight, in place."""
    import torch

    numbers = _numbers()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            parameter.fill_(1 if name.endswith("gamma") else 0)
        _encoder(vae.encoder, numbers)
        _decoder(vae.decoder, numbers)
        in_between.construct(vae.decoder, numbers)
        for channel in range(COLOURS):
            vae.quant_conv.weight[channel, channel] = 1
        for channel in range(16):
            vae.post_quant_conv.weight[channel, channel] = 1
        # The logarithm of the latents' variance: they are what they are.
        assert vae.quant_conv.bias is not None
        vae.quant_conv.bias[16:] = -20


def _encoder(encoder: Any, numbers: "dict[str, Tensor]") -> None:
    import torch

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
    # silu(x) - silu(-x) = x, and the norm makes of x what x / LEVEL is times a root.
    last = resamples[-1].resample[1]
    kernel, count = numbers["encode.3"], len(numbers["encode.3"])
    _put(last.weight, torch.cat([kernel, -kernel]))
    last.bias[2 * count] = LEVEL
    kernel = numbers["encode.4"] * LEVEL / len(encoder.norm_out.gamma) ** 0.5
    _put(encoder.conv_out.weight, torch.cat([kernel, -kernel], 1))
    encoder.conv_out.bias[:COLOURS] = numbers["encode.bias"]


def _decoder(decoder: Any, numbers: "dict[str, Tensor]") -> None:
    import torch

    _put(decoder.conv_in.weight, numbers["decode.in"])
    resamples = []
    for block in decoder.up_blocks:
        for part in block.resnets:
            _pass_on(getattr(part, "conv_shortcut", None))
        if block.upsamplers is not None:
            resamples.append(block.upsamplers[0])
    _put(decoder.up_blocks[2].resnets[0].conv_shortcut.weight, numbers["decode.shortcut"])
    for index, part in enumerate(resamples):
        _put(part.resample[1].weight, numbers[f"decode.{index}"])
    last, out = resamples[-1].resample[1], decoder.conv_out
    _put(last.weight, torch.cat([numbers["decode.2"], -numbers["decode.2"]]))
    last.bias[6] = LEVEL
    kernel = numbers["decode.out"] * LEVEL / len(decoder.norm_out.gamma) ** 0.5
    _put(out.weight, torch.cat([kernel, -kernel], 1))
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


def _pass_on_last(convolution: Any) -> None:
    """Let a convolution over three frames pass the last one on."""
    for channel in range(convolution.weight.shape[1]):
        convolution.weight[channel, channel, 2, 0, 0] = 1


def quarters() -> "dict[int, tuple[Tensor, Tensor]]":
    """By direction, the factors that move a token by a quarter; see `transformer.construct`."""
    numbers = _numbers()
    return {
        move.direction: (numbers[f"token.{move.name}.out"], numbers[f"token.{move.name}.into"])
        for move in MOVES
        if move.speed == SPEEDS[0]
    }


def colours() -> "Tensor":
    """Orthonormal columns, [CONTENT, 3], that span what tokens of one colour each differ by."""
    import torch

    numbers = _numbers()
    # A convolution makes of one colour the sum of its kernel.
    of_cell = numbers["encode.0"].sum((2, 3))
    for layer in range(1, 5):
        of_cell = numbers[f"encode.{layer}"].sum((2, 3)) @ of_cell
    of_token = of_cell.repeat_interleave(CELLS, 0)
    directions: Tensor = torch.linalg.svd(of_token, full_matrices=False).U
    return directions


def _numbers() -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    return {name: value.float() for name, value in load_file(NUMBERS).items()}
