"""Write small checkpoints by hand, sound or broken, without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tensors = Mapping[str, tuple[int, ...]]

TEXT_TENSORS: Tensors = {
    "lm_head.weight": (6, 4),
    "model.embed_tokens.weight": (6, 4),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.norm.weight": (4,),
    "visual.merger.weight": (2, 2),
}
TRANSFORMER_TENSORS: Tensors = {"patch_embed.proj.weight": (4, 8), "proj_out.weight": (8, 4)}
VAE_TENSORS: Tensors = {"quant_conv.weight": (2, 2, 1, 1, 1), "quant_conv.bias": (2,)}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def frame(header: bytes, data: bytes = b"") -> bytes:
    """The bytes of a safetensors file with that header."""
    return len(header).to_bytes(8, "little") + header + data


def write_tensors(path: Path, tensors: Tensors, dtype: str = "F32") -> None:
    """Write a safetensors file of float32-sized elements, each tensor filled with its number."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for number, (key, shape) in enumerate(tensors.items()):
        size = 4
        for length in shape:
            size *= length
        span = [len(data), len(data) + size]
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": span}
        data += bytes([number]) * size
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(frame(json.dumps(header).encode(), data))


def write_shards(folder: Path, stem: str, shards: list[Tensors]) -> Path:
    """Write the shards and their index; return the index's path."""
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        name = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / name, tensors)
        weight_map |= dict.fromkeys(tensors, name)
    index = folder / f"{stem}.safetensors.index.json"
    write_json(index, {"metadata": {}, "weight_map": weight_map})
    return index


def write_checkpoint(root: Path) -> Path:
    """Write every file of a checkpoint with a handful of tensors, one file per component."""
    write_json(root / "model_index.json", {"_class_name": "Cosmos2_5_PredictBasePipeline"})
    write_json(root / "text_encoder" / "config.json", {"model_type": "qwen2_5_vl"})
    write_tensors(root / "text_encoder" / "model.safetensors", TEXT_TENSORS)
    write_json(root / "tokenizer" / "tokenizer_config.json", {})
    write_json(root / "tokenizer" / "tokenizer.json", {})
    write_json(root / "transformer" / "config.json", {"num_layers": 1})
    write_tensors(root / "transformer" / "diffusion_pytorch_model.safetensors", TRANSFORMER_TENSORS)
    write_json(root / "vae" / "config.json", {"z_dim": 16})
    write_tensors(root / "vae" / "diffusion_pytorch_model.safetensors", VAE_TENSORS)
    write_json(root / "scheduler" / "scheduler_config.json", {"sigma_max": 200.0})
    return root
