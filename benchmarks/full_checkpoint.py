"""A checkpoint of a scale's sizes with random numbers: the files that a worker reads."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from benchmarks import full_size
from benchmarks.full_size import Scale
from pipeline.network.transformer import CosmosTransformer
from weights.stand_in.checkpoint import write_stand_in

_META = torch.device("meta")


def write_checkpoint(root: Path, scale: Scale, device: torch.device) -> None:
    """Write it to `root`, 17.7 GiB at full size; `device` draws the numbers and holds a component.

    The files are those of a small stand-in, with other sizes in their configurations and other
    tensors. What no video needs, the text model's head and its vision tower, is left as it is.
    """
    write_stand_in(root, width=scale.width, height=scale.height)
    # The tokenizer is the stand-in's: of the embedding's rows it uses the first.
    with _META:
        text = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**scale.text))
        network = CosmosTransformer(scale.config)
        vae = AutoencoderKLWan(**scale.vae)
    settings = {name: getattr(scale.config, name) for name in full_size.SHARED_SETTINGS}
    settings["encoder_hidden_states_channels"] = scale.config.text_embed_dim
    _configure(root / "transformer" / "config.json", settings)
    _configure(root / "vae" / "config.json", dict(vae.config))
    _configure_text(root / "text_encoder" / "config.json", scale.text)
    draw = _Draw(device)
    names = ((f"model.{name}", tensor) for name, tensor in text.named_parameters())
    draw.write(root / "text_encoder" / "model.safetensors", names)
    file = "diffusion_pytorch_model.safetensors"
    draw.write(root / "transformer" / file, full_size.published_weights(network).items())
    draw.write(root / "vae" / file, vae.named_parameters())


class _Draw:
    """Draws tensors so that each layer about keeps the size of its input."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._generator = torch.Generator(device).manual_seed(0)

    def write(self, file: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
        save_file({name: self._drawn(name, tensor) for name, tensor in tensors}, file)

    def _drawn(self, name: str, tensor: Tensor) -> Tensor:
        shape = tensor.shape
        noise = torch.empty(shape, device=self._device, dtype=torch.bfloat16)
        noise.normal_(generator=self._generator)
        if name.endswith(".bias"):
            return noise.mul_(0.02)
        fan_in = shape[1:].numel()
        if fan_in == 1:  # the scale of a norm
            return noise.mul_(0.1).add_(1)
        return noise if "embed_tokens" in name else noise.div_(fan_in**0.5)


def _configure(file: Path, settings: Mapping[str, Any]) -> None:
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | settings, indent=2) + "\n")


def _configure_text(file: Path, settings: Mapping[str, Any]) -> None:
    config = json.loads(file.read_text())
    text = config["text_config"] | settings
    # One kind for each layer, which follows from their number.
    text.pop("layer_types", None)
    file.write_text(json.dumps(config | {"text_config": text}, indent=2) + "\n")
