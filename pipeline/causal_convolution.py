"""The VAE's causal convolutions by oneDNN: the fast way on a CPU.

For a float32 convolution in 3D with few channels torch takes another way, which is several times
slower: benchmarks/results/vae-cpu.json.
"""

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from torch import Tensor


class OneDnnConv3d(WanCausalConv3d):
    """The same convolution, whatever its size, in float32 by oneDNN."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.dtype != torch.float32:
            convolved: Tensor = super()._conv_forward(input, weight, bias)
            return convolved
        # The padding is in the input: that on the left in time may be what came before.
        return torch.mkldnn_convolution(
            input, weight, bias, [0, 0, 0], self.stride, self.dilation, self.groups
        )


def convolve_by_onednn(vae: AutoencoderKLWan) -> None:
    """Let oneDNN compute every causal convolution of a VAE on the CPU, where torch has oneDNN."""
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's
        for module in vae.modules():
            if type(module) is WanCausalConv3d:
                module.__class__ = OneDnnConv3d
