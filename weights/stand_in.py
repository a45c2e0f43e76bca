"""Write a stand-in: a complete checkpoint of the published classes and layout, tiny and random.

It proves the path from a photograph to a video, not the picture. It is built with no network,
in seconds, and is the same for the same seed and library versions. torch, diffusers and
transformers are imported when a stand-in is written, not with this module.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weights.checkpoint_profile import PROFILE_FILE
from weights.errors import StandInRefused
from weights.manifest import MODEL_INDEX, load_manifest

if TYPE_CHECKING:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

Spelling = Literal["transformers-4", "transformers-5"]
Weights = Literal["lively", "oracle"]

LICENCE = "Random numbers made by cosmos-serve, Apache-2.0. No trained weights are in here."

TEXT_HIDDEN = 64
TEXT_LAYERS = 2
TEXT_EMBEDDING = 32

# The encoder's last layer: latents of the photograph get the spread of the published ones.
GAINS = {"quant_conv.weight": 6.0}

# The special tokens of Qwen2.5-VL that the chat template and the configuration refer to.
END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = [
    "<|im_start|>",
    END_OF_TURN,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# The part of Qwen2.5-VL's template that deals with text.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the files are laid out; the default is what transformers and diffusers save today.

    spelling: the text encoder's tensor names. "transformers-4" is `model.layers…` and
        `visual…`, which transformers 5 too writes unless told otherwise; "transformers-5" is
        `model.language_model.layers…` and `model.visual…`.
    sharded: text encoder and transformer in several files with an index.
    dtype: of every tensor.
    flat_config: the text model's settings at the top of its config.json, with `rope_theta` and
        `rope_scaling`, as Qwen2.5-VL-7B publishes them.
    """

    spelling: Spelling = "transformers-4"
    sharded: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
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
) -> None:
    """Write a complete checkpoint to `root`, which appears whole or not at all.

    `weights` chooses how the transformer is drawn: "lively" makes moving coloured noise;
    "oracle" draws every matrix with standard deviation 0.05 and sets the query and key norms
    to 2, so that the softmax is peaked enough for a wrong rotation to show.

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
        _write_components(unfinished, seed, layout, weights)
        _write_json(unfinished / MODEL_INDEX, _model_index())
        _write_json(unfinished / PROFILE_FILE, _profile(width, height))
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


def _write_components(folder: Path, seed: int, layout: Layout, weights: Weights) -> None:
    import torch

    dtype = getattr(torch, layout.dtype)
    shard_size = "96KB" if layout.sharded else "5GB"
    # Building a module draws from torch's global generator, which is the caller's.
    with torch.random.fork_rng(devices=[]), _no_progress_bars():
        tokenizer = _tokenizer()
        tokenizer.save_pretrained(folder / "tokenizer")

        text_encoder = _text_encoder(tokenizer)
        _draw(text_encoder, seed, dtype)
        text_encoder.save_pretrained(
            folder / "text_encoder",
            max_shard_size=shard_size,
            save_original_format=layout.spelling == "transformers-4",
        )
        if layout.flat_config:
            _flatten_config(folder / "text_encoder" / "config.json")

        transformer = _transformer()
        if weights == "oracle":
            _draw_for_oracle(transformer, seed, dtype)
        else:
            _draw(transformer, seed, dtype)
        transformer.save_pretrained(folder / "transformer", max_shard_size=shard_size)

        vae = _vae()
        _draw(vae, seed, dtype)
        vae.save_pretrained(folder / "vae")

        _scheduler().save_pretrained(folder / "scheduler")


def _tokenizer() -> "Qwen2Tokenizer":
    """A byte-level tokenizer without merges: any text is encoded, in 264 ids."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))},
        merges=[],
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=SPECIAL_TOKENS,
        model_max_length=131072,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _text_encoder(tokenizer: "Qwen2Tokenizer") -> "Qwen2_5_VLForConditionalGeneration":
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "hidden_size": TEXT_HIDDEN,
        "intermediate_size": 2 * TEXT_HIDDEN,
        "num_hidden_layers": TEXT_LAYERS,
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
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": TEXT_HIDDEN,
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


def _transformer() -> "CosmosTransformer3DModel":
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel

    transformer: CosmosTransformer3DModel = CosmosTransformer3DModel(
        in_channels=17,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=32,
        num_layers=3,
        mlp_ratio=4.0,
        text_embed_dim=TEXT_EMBEDDING,
        adaln_lora_dim=16,
        max_size=(128, 240, 240),
        patch_size=(1, 2, 2),
        rope_scale=(1.0, 3.0, 3.0),
        concat_padding_mask=True,
        extra_pos_embed_type=None,
        use_crossattn_projection=True,
        crossattn_proj_in_channels=TEXT_HIDDEN * TEXT_LAYERS,
        encoder_hidden_states_channels=TEXT_EMBEDDING,
    )
    return transformer


def _vae() -> "AutoencoderKLWan":
    """Wan 2.1's VAE, thinner; the mean and deviation of its latents are the published ones."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    vae: AutoencoderKLWan = AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1
    )
    return vae


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


def _draw(module: "torch.nn.Module", seed: int, dtype: "torch.dtype") -> None:
    """Draw every parameter so that each layer about keeps the size of its input."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel()
        if name.endswith(".bias"):
            value = 0.02 * noise
        elif fan_in == 1:
            # The scale of a norm; some are [channels, 1, 1, 1].
            value = 1 + 0.1 * noise
        elif "embed_tokens" in name:
            value = noise
        else:
            value = noise * GAINS.get(name, 1.0) / fan_in**0.5
        parameter.data = value.to(dtype)


def _draw_for_oracle(transformer: "torch.nn.Module", seed: int, dtype: "torch.dtype") -> None:
    """Draw every matrix small and make attention sharp; the rest as usual."""
    import torch

    _draw(transformer, seed, dtype)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(transformer.named_parameters()):
        if parameter.ndim >= 2:
            parameter.data = (0.05 * torch.randn(parameter.shape, generator=generator)).to(dtype)
        elif name.endswith((".norm_q.weight", ".norm_k.weight")):
            parameter.data.fill_(2.0)


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


def _profile(width: int, height: int) -> dict[str, Any]:
    return {
        "width": width,
        "height": height,
        "max_frames": 93,
        "guardrail": "none",
        "licence": LICENCE,
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
