"""TAEHV for Wan 2.1's latents: a small network that decodes a rough picture of each latent frame.

The network is that of github.com/madebyollin/taehv, whose code and weights are under the MIT
licence, (c) 2025 Ollin Boer Bohan; the file is its `safetensors/taew2_1.safetensors`. Of it this
is the part that previews need: the decoder, without its doublings of the number of frames, which
leaves the last of each four, and with one of its three doublings of the size.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.preview import to_levels
from pipeline.vae import LATENT_CHANNELS
from weights.errors import CheckpointDamaged, CheckpointIncomplete

FILE = "taew2_1.safetensors"
"""In the folder of the checkpoint."""

_PREFIX = "decoder."


class TaehvDecoder(nn.Module):
    """Turns latents into pictures of twice their size; see `pipeline.preview.Sketch`."""

    def __init__(self) -> None:
        super().__init__()
        # The numbers of the layers are in the file's names.
        self.layers = nn.Sequential(
            *(_Bound(), _conv(LATENT_CHANNELS, 256), nn.ReLU()),
            *(_Remembering(256), _Remembering(256), _Remembering(256)),
            *(nn.Upsample(scale_factor=2), _LastFrame(256), _conv(256, 128, bias=False)),
            *(_Remembering(128), _Remembering(128), _Remembering(128)),
            *(nn.Identity(), _LastFrame(128), _conv(128, 64, bias=False)),
            *(_Remembering(64), _Remembering(64), _Remembering(64)),
            *(nn.Identity(), _LastFrame(64), _conv(64, 64, bias=False)),
            *(nn.ReLU(), _conv(64, 3)),
        )

    @classmethod
    def beside(cls, checkpoint: Path, device: str) -> "TaehvDecoder":
        """Load the file from the folder of a checkpoint.

        Args:
            device: `cpu` or `cuda`.

        Raises:
            CheckpointIncomplete: it is not there.
            CheckpointDamaged: it holds something else.
        """
        path = checkpoint / FILE
        if not path.is_file():
            raise CheckpointIncomplete(
                f"COSMOS_PREVIEW=taehv wants the file {path}, from safetensors/ in "
                "github.com/madebyollin/taehv. COSMOS_PREVIEW=rgb needs no file."
            )
        try:
            tensors = load_file(path)
            with torch.device("meta"):
                decoder = cls()
            decoder.layers.load_state_dict(_kept(tensors), assign=True)
        except (SafetensorError, RuntimeError) as error:
            raise CheckpointDamaged(f"{path} is not the TAEHV of Wan 2.1: {error}") from error
        dtype = torch.float16 if device == "cuda" else torch.float32
        return decoder.to(device, dtype).requires_grad_(False).eval()

    def forward(self, latents: Tensor) -> Tensor:
        """[1, 16, T, height / 8, width / 8] -> [T, height / 4, width / 4, 3] uint8."""
        dtype = next(self.parameters()).dtype
        memory: dict[nn.Module, Tensor] = {}
        return torch.cat(
            [self._frame(frame.to(dtype), memory) for frame in latents.unbind(2)]
        ).permute(0, 2, 3, 1)

    def _frame(self, hidden: Tensor, memory: dict[nn.Module, Tensor]) -> Tensor:
        """[1, 3, …] uint8 of the next latent frame; frame by frame, it takes little memory."""
        for layer in self.layers:
            if isinstance(layer, _Remembering):
                before = memory.get(layer, torch.zeros_like(hidden))
                memory[layer] = hidden
                hidden = layer(hidden, before)
            else:
                hidden = layer(hidden)
        return to_levels(2 * hidden.float() - 1)


class _Bound(nn.Module):
    """Latents are within 3."""

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents / 3) * 3


class _Remembering(nn.Module):
    """A residual block that sees what it saw of the frame before, too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(_conv(2 * channels, channels), nn.ReLU()),
            *(_conv(channels, channels), nn.ReLU()),
            _conv(channels, channels),
        )

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.cat([hidden, before], dim=1)) + hidden)


class _LastFrame(nn.Module):
    """Where the file's network makes two frames of one: the later of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        made: Tensor = self.conv(hidden)
        return made


def _conv(channels_in: int, channels_out: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias)


def _kept(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's tensors by the names of its layers, without what makes the earlier frames."""
    kept = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(_PREFIX)
    }
    for name in ("7.conv.weight", "13.conv.weight", "19.conv.weight"):
        if name in kept:
            kept[name] = kept[name][-kept[name].shape[1] :]
    return kept
