"""The stand-in's VAE as it is trained: chains of convolutions with nothing between them.

`vae.py` puts the kernels where the layers of AutoencoderKLWan compute the same.
"""

import torch
from torch.nn import functional

COLOURS = 14
"""Latent channels that hold the picture. The other two of 16 hold the camera's move."""

Chain = dict[str, torch.Tensor]


def first_chain(generator: torch.Generator) -> Chain:
    """Random kernels by name: outputs, inputs, 3, 3."""

    def kernel(outputs: int, inputs: int, gain: float = 1.0) -> torch.Tensor:
        random = torch.randn((outputs, inputs, 3, 3), generator=generator)
        return random.mul(gain / (9 * inputs) ** 0.5)

    return {
        "encode.0": kernel(6, 3, 2.0),
        "encode.1": kernel(6, 6, 2.0),
        "encode.2": kernel(12, 6, 2.0),
        "encode.3": kernel(20, 12, 2.0),
        "encode.4": kernel(COLOURS, 20),
        "encode.bias": torch.zeros(COLOURS),
        "decode.in": kernel(16, COLOURS),
        "decode.0": kernel(16, 16),
        "decode.1": kernel(32, 16),
        "decode.shortcut": torch.randn((16, 32, 1, 1), generator=generator) / 32**0.5,
        "decode.2": kernel(3, 16),
        "decode.out": kernel(3, 3),
        "decode.bias": torch.zeros(3),
    }


def encode(chain: Chain, pictures: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] in -1..1 to latents [N, 14, H/8, W/8]."""
    hidden = functional.conv2d(pictures, chain["encode.0"], padding=1)
    for layer in ("encode.1", "encode.2", "encode.3"):
        # The encoder of the class pads below and on the right alone.
        hidden = functional.conv2d(functional.pad(hidden, (0, 1, 0, 1)), chain[layer], stride=2)
    return functional.conv2d(hidden, chain["encode.4"], chain["encode.bias"], padding=1)


def decode(chain: Chain, latents: torch.Tensor) -> torch.Tensor:
    """The inverse, as well as it can."""
    return paint(chain, to_half_cells(chain, to_cells(chain, latents)))


def to_cells(chain: Chain, latents: torch.Tensor) -> torch.Tensor:
    """Latents [N, 14, h, w] to the decoder's first features, [N, 16, h, w]."""
    return functional.conv2d(latents, chain["decode.in"], padding=1)


def to_half_cells(chain: Chain, cells: torch.Tensor) -> torch.Tensor:
    """To its next features, of 4x4 pixels each, [N, 16, 2 h, 2 w]."""
    return functional.conv2d(_twice_as_large(cells), chain["decode.0"], padding=1)


def paint(chain: Chain, half_cells: torch.Tensor) -> torch.Tensor:
    """From there to the picture, [N, 3, 8 h, 8 w]."""
    hidden = functional.conv2d(_twice_as_large(half_cells), chain["decode.1"], padding=1)
    hidden = functional.conv2d(hidden, chain["decode.shortcut"])
    hidden = functional.conv2d(_twice_as_large(hidden), chain["decode.2"], padding=1)
    return functional.conv2d(hidden, chain["decode.out"], chain["decode.bias"], padding=1)


def _twice_as_large(hidden: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(hidden, scale_factor=2.0, mode="nearest-exact")
