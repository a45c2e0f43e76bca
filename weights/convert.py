"""The transformer of a `.pt` file of NVIDIA's, in the published layout.

The files of the branch main (base post-trained, pre-trained, distilled) hold the tensors of
NVIDIA's network under the names of its modules. The published layout has the same tensors, of the
same shapes, under other names. Which is which is written down from two public sources:
`cosmos_predict2/_src/predict2/networks/minimal_v4_dit.py` of nvidia-cosmos/cosmos-predict2.5, for
the modules, and `scripts/convert_cosmos_to_diffusers.py` of huggingface/diffusers, for the names
that they get. torch is imported when a file is read, not with this module.
"""

import io
import math
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weights.errors import CheckpointMismatch, ConversionFailed
from weights.files import read_json_object
from weights.header import TensorInfo
from weights.store import mismatches

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "net."
"""How the names of the network's tensors begin."""

_NOT_WEIGHTS = re.compile(
    # Counters of the training, constants of the rotary embedding, and what Transformer Engine
    # keeps beside its norms.
    r"net\.accum_\w+|net\.pos_embedder\.(seq|dim_spatial_range|dim_temporal_range)"
    r"|net\.(.*\.)?_extra_state"
)

_ZIP = b"PK\3\4"

Shape = tuple[int, ...]


def read_original(path: Path, config: Path) -> dict[str, "Tensor"]:
    """The tensors of NVIDIA's file, by their published names.

    They are mapped and not yet read: only what is done with them later needs memory.

    Args:
        config: the `transformer/config.json` that says which shapes they must have.

    Raises:
        ConversionFailed: the file is no dict of tensors that torch can read, or its tensors are
            not those of the network that `config` describes.
        CheckpointDamaged: `config` is no JSON object.
        CheckpointMismatch: `config` lacks a size of the network.
        OSError: the file cannot be opened.
    """
    table = _table(config)
    state = _load(path)
    tensors = {name: value for name, value in state.items() if not _NOT_WEIGHTS.fullmatch(name)}
    found = {name: _describe(path, name, value) for name, value in tensors.items()}
    wrong = mismatches(found, {name: shape for name, (_, shape) in table.items()})
    if wrong:
        raise ConversionFailed(
            f"{path} does not hold the transformer that {config} describes. {wrong}"
        )
    return {published: tensors[name] for name, (published, _) in table.items()}


def write_transformer(tensors: Mapping[str, "Tensor"], path: Path) -> None:
    """Write the tensors to a safetensors file, which appears whole or not at all.

    Raises:
        ConversionFailed: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    part = path.with_name(f"{path.name}.part")
    # A file that is left over may have no room beside it.
    part.unlink(missing_ok=True)
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            part,
            metadata={"format": "pt"},
        )
    except (SafetensorError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise ConversionFailed(f"{path} cannot be written: {_first_line(error)}") from error
    # safetensors writes for the owner only.
    part.chmod(path.with_name("config.json").stat().st_mode)
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(path)


def _load(path: Path) -> dict[str, Any]:
    """What the file holds, without running code that may be in it."""
    import torch

    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            raise ConversionFailed(f"{path} is not a file that torch.save has written.")
    try:
        # BytesIO, in which Transformer Engine keeps its extra state, holds bytes and no code.
        with torch.serialization.safe_globals([io.BytesIO]):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ConversionFailed(
            f"{path} holds something else than tensors. It is not read, since that could run code."
        ) from error
    except Exception as error:
        # What else torch raises depends on where the bytes are wrong.
        said = _first_line(error)
        raise ConversionFailed(f"{path} is damaged: torch cannot read it ({said}).") from error
    if not isinstance(state, dict):
        raise ConversionFailed(f"{path} holds a {type(state).__name__}, not a dict of tensors.")
    return {str(name): value for name, value in state.items()}


def _first_line(error: Exception) -> str:
    first, _, _ = str(error).strip().partition("\n")
    return first.rstrip() or type(error).__name__


def _describe(path: Path, name: str, value: Any) -> TensorInfo:
    import torch

    if not isinstance(value, torch.Tensor):
        return TensorInfo(path, name, (), type(value).__name__)
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16"}
    names[torch.bfloat16] = "BF16"
    return TensorInfo(path, name, tuple(value.shape), names.get(value.dtype, str(value.dtype)))


def _table(path: Path) -> dict[str, tuple[str, Shape]]:
    """By NVIDIA's name of each tensor: its published name, and its shape."""
    config = read_json_object(path)
    try:
        layers = int(config["num_layers"])
        head = int(config["attention_head_dim"])
        width = int(config["num_attention_heads"]) * head
        text, rank = int(config["text_embed_dim"]), int(config["adaln_lora_dim"])
        inner = int(width * config["mlp_ratio"])
        cells = math.prod(config["patch_size"])
        # The latent, the mask of given frames, and a padding mask.
        patch_in, patch_out = (config["in_channels"] + 1) * cells, config["out_channels"] * cells
        text_in = int(config["crossattn_proj_in_channels"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointMismatch(
            f"{path} does not describe a transformer of Cosmos-Predict2.5: {error!r}."
        ) from error
    modules: dict[str, tuple[str, Shape]] = {
        "x_embedder.proj.1": ("patch_embed.proj", (width, patch_in)),
        "t_embedder.1.linear_1": ("time_embed.t_embedder.linear_1", (width, width)),
        "t_embedder.1.linear_2": ("time_embed.t_embedder.linear_2", (3 * width, width)),
        "t_embedding_norm": ("time_embed.norm", (width,)),
        "crossattn_proj.0": ("crossattn_proj.0", (text, text_in)),
        **_modulation("final_layer.adaln_modulation", "norm_out", width, rank, parts=2),
        "final_layer.linear": ("proj_out", (patch_out, width)),
    }
    for layer in range(layers):
        for theirs, (ours, shape) in _block(width, head, text, inner, rank).items():
            modules[f"blocks.{layer}.{theirs}"] = (f"transformer_blocks.{layer}.{ours}", shape)
    table = {
        f"{PREFIX}{theirs}.weight": (f"{ours}.weight", shape)
        for theirs, (ours, shape) in modules.items()
    }
    # The one projection that has a bias.
    table[f"{PREFIX}crossattn_proj.0.bias"] = ("crossattn_proj.0.bias", (text,))
    return table


def _block(width: int, head: int, text: int, inner: int, rank: int) -> dict[str, tuple[str, Shape]]:
    """The modules of one block, by NVIDIA's names: the published ones, and the weights' shapes."""
    names: dict[str, tuple[str, Shape]] = {}
    for index, (theirs, source) in enumerate((("self_attn", width), ("cross_attn", text)), 1):
        ours = f"attn{index}"
        names |= {
            f"{theirs}.q_proj": (f"{ours}.to_q", (width, width)),
            f"{theirs}.k_proj": (f"{ours}.to_k", (width, source)),
            f"{theirs}.v_proj": (f"{ours}.to_v", (width, source)),
            f"{theirs}.q_norm": (f"{ours}.norm_q", (head,)),
            f"{theirs}.k_norm": (f"{ours}.norm_k", (head,)),
            f"{theirs}.output_proj": (f"{ours}.to_out.0", (width, width)),
        }
    names["mlp.layer1"] = ("ff.net.0.proj", (inner, width))
    names["mlp.layer2"] = ("ff.net.2", (width, inner))
    for index, theirs in enumerate(("self_attn", "cross_attn", "mlp"), 1):
        names |= _modulation(f"adaln_modulation_{theirs}", f"norm{index}", width, rank, parts=3)
    return names


def _modulation(
    theirs: str, ours: str, width: int, rank: int, parts: int
) -> dict[str, tuple[str, Shape]]:
    """The two projections, through a low rank, from the time to shift, scale and gate."""
    return {
        f"{theirs}.1": (f"{ours}.linear_1", (rank, width)),
        f"{theirs}.2": (f"{ours}.linear_2", (parts * width, rank)),
    }
