"""Write a stand-in: a complete checkpoint of the published classes and layout, but small.

It needs no network, and seconds. "moving" weights are written down, but for a small VAE that was
trained: they move the photograph as the prompt says (`transformer.py`, `text.py`, `vae.py`).
"lively" and "oracle" ones are random, for tests of the numbers. torch, diffusers and transformers
are imported when a stand-in is written, not with this package.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weights.checkpoint_profile import PROFILE_FILE, Sampler
from weights.errors import StandInRefused
from weights.manifest import MODEL_INDEX, load_manifest

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
    from transformers import Qwen2Tokenizer

Spelling = Literal["transformers-4", "transformers-5"]
Weights = Literal["moving", "lively", "oracle"]

LICENCES = {
    "moving": (
        "Numbers written down by cosmos-serve, Apache-2.0. The VAE learned from the photographs "
        "that weights/stand_in/NOTICE names. NVIDIA's weights have no part in it."
    ),
    "random": "Random numbers made by cosmos-serve, Apache-2.0. No trained weights are in here.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the files are laid out; the default is what transformers and diffusers save today.

    spelling: the text encoder's tensor names. "transformers-4" is `model.layers…` and
        `visual…`, which transformers 5 too writes unless told otherwise; "transformers-5" is
        `model.language_model.layers…` and `model.visual…`.
    sharded: text encoder and transformer in several files with an index.
    dtype: of every tensor; by default float32, and float16 for moving weights, which are rounded
        to it as they are made.
    flat_config: the text model's settings at the top of its config.json, with `rope_theta` and
        `rope_scaling`, as Qwen2.5-VL-7B publishes them.
    """

    spelling: Spelling = "transformers-4"
    sharded: bool = False
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    flat_config: bool = False


DEFAULT_LAYOUT = Layout()


def write_stand_in(
    root: Path,
    *,
    width: int = 320,
    height: int = 176,
    seed: int = 0,
    layout: Layout = DEFAULT_LAYOUT,
    weights: Weights = "lively",
    sampler: Sampler = "unipc",
) -> None:
    """Write a complete checkpoint to `root`, which appears whole or not at all.

    `weights` chooses the numbers: "moving" moves the picture as the prompt says, and takes no seed;
    "lively" is random and makes coloured noise; "oracle" draws every matrix of the transformer with
    standard deviation 0.05 and sets the query and key norms to 2, so that the softmax is peaked
    enough for a wrong rotation to show. With the sampler "trigflow" it stands in for a distilled
    checkpoint, over the same text model and VAE.

    Raises:
        StandInRefused: width or height is not a positive multiple of 16, or `root` is a file or
            a folder that is not empty.
    """
    _check_size(width, height)
    root = root.absolute()
    if root.is_file():
        raise StandInRefused(f"{root} is a file. Name a new or empty folder for the stand-in.")
    if root.exists() and any(root.iterdir()):
        raise StandInRefused(f"{root} is not empty. Name a new or empty folder for the stand-in.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as scratch:
        unfinished = Path(scratch, "checkpoint")
        unfinished.mkdir()
        _write_components(unfinished, seed, layout, weights, sampler)
        _write_json(unfinished / MODEL_INDEX, _model_index())
        _write_json(unfinished / PROFILE_FILE, _profile(width, height, weights, sampler))
        _share(unfinished)
        unfinished.replace(root)


def _share(folder: Path) -> None:
    """Give the tensor files the rights of their neighbours: they are written for the owner only."""
    mode = (folder / MODEL_INDEX).stat().st_mode
    for file in folder.rglob("*.safetensors"):
        file.chmod(mode)


def _check_size(width: int, height: int) -> None:
    for name, value in (("width", width), ("height", height)):
        if value <= 0 or value % 16:
            raise StandInRefused(
                f"The stand-in's {name} is {value}; it must be a positive multiple of 16."
            )


def _write_components(
    folder: Path, seed: int, layout: Layout, weights: Weights, sampler: Sampler
) -> None:
    import torch

    shard_size = "96KB" if layout.sharded else "5GB"
    # Building a module draws from torch's global generator, which is the caller's.
    with torch.random.fork_rng(devices=[]), _no_progress_bars():
        parts = _moving(sampler) if weights == "moving" else _random(seed, weights)
        parts.tokenizer.save_pretrained(folder / "tokenizer")
        dtype = getattr(torch, layout.dtype or ("float16" if weights == "moving" else "float32"))
        for module in (parts.text_encoder, parts.transformer, parts.vae):
            for parameter in module.parameters():
                parameter.data = parameter.data.to(dtype)
        parts.text_encoder.save_pretrained(
            folder / "text_encoder",
            max_shard_size=shard_size,
            save_original_format=layout.spelling == "transformers-4",
        )
        if layout.flat_config:
            _flatten_config(folder / "text_encoder" / "config.json")
        parts.transformer.save_pretrained(folder / "transformer", max_shard_size=shard_size)
        parts.vae.save_pretrained(folder / "vae")
        _scheduler().save_pretrained(folder / "scheduler")


@dataclass(frozen=True, slots=True)
class _Parts:
    tokenizer: "Qwen2Tokenizer"
    text_encoder: Any
    transformer: Any
    vae: Any


def _moving(sampler: Sampler) -> _Parts:
    from weights.stand_in import text, transformer, vae

    tokenizer = text.tokenizer()
    text_encoder = _text_encoder(tokenizer, text.HIDDEN, 1, **text.config())
    text.construct(text_encoder, tokenizer)
    network, autoencoder = _transformer(transformer.config()), _vae(vae.config())
    transformer.construct(network, vae.quarters(), vae.colours(), distilled=sampler == "trigflow")
    vae.construct(autoencoder)
    return _Parts(tokenizer, text_encoder, network, autoencoder)


def _random(seed: int, weights: Weights) -> _Parts:
    from weights.stand_in import random_weights

    tokenizer = random_weights.tokenizer()
    text_encoder = _text_encoder(tokenizer, random_weights.HIDDEN, random_weights.LAYERS)
    network = _transformer(random_weights.transformer_config())
    autoencoder = _vae(random_weights.vae_config())
    for module in (text_encoder, network, autoencoder):
        random_weights.draw(module, seed)
    if weights == "oracle":
        random_weights.draw_for_oracle(network, seed)
    return _Parts(tokenizer, text_encoder, network, autoencoder)


def _text_encoder(tokenizer: "Qwen2Tokenizer", hidden: int, layers: int, **changes: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_theta": 1e6,
        # In frequencies: they add up to half of a head's 16 dimensions.
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]},
    } | changes
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "fullatt_block_indexes": [0],
    }
    tokens = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    config = Qwen2_5_VLConfig.from_dict({"text_config": text, "vision_config": vision, **tokens})
    return Qwen2_5_VLForConditionalGeneration(config)


def _transformer(config: dict[str, Any]) -> Any:
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel

    return CosmosTransformer3DModel(**config)


def _vae(config: dict[str, Any]) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    return AutoencoderKLWan(**config)


def _scheduler() -> "UniPCMultistepScheduler":
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    scheduler: UniPCMultistepScheduler = UniPCMultistepScheduler(
        use_karras_sigmas=True,
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        sigma_max=200.0,
        sigma_min=0.01,
    )
    return scheduler


def _flatten_config(path: Path) -> None:
    """Rewrite a text encoder's config.json the way transformers 4 wrote Qwen2.5-VL-7B's."""
    config: dict[str, Any] = json.loads(path.read_text())
    text: dict[str, Any] = config.pop("text_config")
    rope: dict[str, Any] = text.pop("rope_parameters")
    text.pop("layer_types")
    vision: dict[str, Any] = config["vision_config"]
    vision.pop("rope_parameters")
    vision["model_type"] = config["model_type"]
    flat = text | config
    flat["torch_dtype"] = flat.pop("dtype")
    flat["rope_theta"] = rope["rope_theta"]
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat["transformers_version"] = "4.41.2"
    _write_json(path, flat)


def _model_index() -> dict[str, Any]:
    import diffusers

    return {
        "_class_name": load_manifest().pipeline,
        "_diffusers_version": diffusers.__version__,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "CosmosTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }


def _profile(width: int, height: int, weights: Weights, sampler: Sampler) -> dict[str, Any]:
    return {
        "width": width,
        "height": height,
        "max_frames": 93,
        "guardrail": "none",
        "sampler": sampler,
        # Written-down numbers cancel each other out, which those rounded to bfloat16 do not.
        "dtype": "float32" if weights == "moving" else "bfloat16",
        "licence": LICENCES.get(weights, LICENCES["random"]),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers' bars off the terminal: saving takes milliseconds."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it has no annotations
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # nor has this
