"""The network at its published size, or tiny, with random weights; and diffusers' with the same."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers import transformer_cosmos
from torch import Tensor
from torch.nn import functional

from pipeline.network.transformer import CosmosTransformer, TransformerConfig

SCHEDULER = {
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "sigma_max": 200.0,
    "sigma_min": 0.01,
    "use_flow_sigmas": True,
    "use_karras_sigmas": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What is measured: the network, the size of the video, and how often."""

    config: TransformerConfig
    num_frames: int
    width: int
    height: int
    steps: int
    runs: int
    matrix: int
    ceiling_s: float
    """How long each ceiling is measured."""
    text: dict[str, Any]
    """The text model's sizes, by their names in its configuration."""
    vae: dict[str, Any]

    @property
    def latent_frames(self) -> int:
        return (self.num_frames - 1) // 4 + 1

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.height // 8, self.width // 8

    @property
    def tokens(self) -> int:
        return self.latent_frames * (self.height // 16) * (self.width // 16)


def _config(
    heads: int, head_dim: int, layers: int, rank: int, text: int, features: int
) -> TransformerConfig:
    return TransformerConfig(
        in_channels=17,
        out_channels=16,
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        num_layers=layers,
        mlp_ratio=4.0,
        text_embed_dim=text,
        adaln_lora_dim=rank,
        patch_size=(1, 2, 2),
        rope_scale=(1.0, 3.0, 3.0),
        crossattn_proj_in_channels=features,
    )


def _rope(sections: list[int]) -> dict[str, Any]:
    """Of a head, in frequencies: `sections` add up to half of its dimensions."""
    return {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}


FULL = Scale(
    # 28 layers of the text model, 3584 wide, side by side are what the projection reads.
    config=_config(16, 128, layers=28, rank=256, text=1024, features=28 * 3584),
    num_frames=93,
    width=1280,
    height=704,
    steps=35,
    runs=3,
    matrix=8192,
    ceiling_s=3.0,
    text={
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
        "rope_parameters": _rope([16, 24, 24]),
    },
    vae={},
)
TINY = Scale(
    config=_config(2, 32, layers=3, rank=16, text=32, features=64),
    num_frames=9,
    width=96,
    height=64,
    steps=2,
    runs=1,
    matrix=256,
    ceiling_s=0.01,
    text={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "rope_parameters": _rope([2, 1, 1]),
    },
    vae={"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
)


def random_transformer(
    scale: Scale, device: torch.device, dtype: torch.dtype, **choices: Any
) -> CosmosTransformer:
    """Ours: matrices with deviation 0.05, query and key norms of 2, the same for every dtype."""
    with torch.device(device):
        network = CosmosTransformer(scale.config, **choices)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            values = torch.randn(parameter.shape, generator=generator, device=device) * 0.05
        else:
            is_head_norm = name.endswith(("norm_q.weight", "norm_k.weight"))
            values = torch.full(parameter.shape, 2.0 if is_head_norm else 1.0, device=device)
        # As a published file holds them, so that every dtype computes with the same numbers.
        parameter.data = values.bfloat16().to(network.parameter_dtype(name, dtype))
    return network.requires_grad_(False).eval()


def published_weights(network: CosmosTransformer) -> dict[str, Tensor]:
    """The network's weights under the published names."""
    weights: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        parts = network.published_names(name)
        weights |= zip(parts, tensor.chunk(len(parts)), strict=True)
    return weights


def diffusers_transformer(scale: Scale, network: CosmosTransformer, dtype: torch.dtype) -> Any:
    """diffusers' class with the same weights, in one dtype throughout as its pipeline has it."""
    _replace_torchvision()
    config = scale.config
    with torch.device("meta"):
        model = transformer_cosmos.CosmosTransformer3DModel(
            **{name: getattr(config, name) for name in SHARED_SETTINGS},
            concat_padding_mask=True,
            extra_pos_embed_type=None,
            use_crossattn_projection=True,
            encoder_hidden_states_channels=config.text_embed_dim,
        )
    weights = {name: tensor.to(dtype) for name, tensor in published_weights(network).items()}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


SHARED_SETTINGS = (
    "in_channels",
    "out_channels",
    "num_attention_heads",
    "attention_head_dim",
    "num_layers",
    "mlp_ratio",
    "text_embed_dim",
    "adaln_lora_dim",
    "patch_size",
    "rope_scale",
    "crossattn_proj_in_channels",
)


def _replace_torchvision() -> None:
    """Its forward wants one thing of torchvision: to shrink a mask of zeros."""
    module: Any = transformer_cosmos
    if hasattr(module, "transforms"):
        return

    def resize(image: Tensor, size: list[int], interpolation: str) -> Tensor:
        return functional.interpolate(image, size=size, mode=interpolation)

    module.transforms = SimpleNamespace(
        functional=SimpleNamespace(resize=resize),
        InterpolationMode=SimpleNamespace(NEAREST="nearest"),
    )


def random_vae(scale: Scale, device: torch.device, dtype: torch.dtype) -> AutoencoderKLWan:
    """The VAE with random weights that keep its numbers in range."""
    torch.manual_seed(0)
    with torch.device(device):
        vae: AutoencoderKLWan = AutoencoderKLWan(**scale.vae)
    for parameter in vae.parameters():
        parameter.data = parameter.data.to(dtype)
    return vae.requires_grad_(False).eval()


def diffusers_forward(model: Any, inputs: "StepInputs", text: Tensor) -> Tensor:
    """One evaluation as diffusers' pipeline calls it. `text` is what its projection reads."""
    given = inputs.given[:, None, :, None, None]
    velocity: Tensor = model(
        hidden_states=inputs.latents.to(model.dtype),
        condition_mask=given.expand(-1, -1, -1, *inputs.latents.shape[3:]).to(model.dtype),
        timestep=inputs.times[:, None, :, None, None],
        encoder_hidden_states=text,
        padding_mask=torch.zeros(
            1, 1, 8 * inputs.latents.shape[3], 8 * inputs.latents.shape[4],
            device=text.device, dtype=model.dtype,
        ),
        return_dict=False,
    )[0]  # fmt: skip
    return velocity


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What one evaluation reads: latents, which frames are given, and the time of each."""

    latents: Tensor
    given: Tensor
    times: Tensor

    @classmethod
    def random(
        cls, num_frames: int, size: tuple[int, int], device: torch.device, seed: int = 1
    ) -> "StepInputs":
        generator = torch.Generator(device).manual_seed(seed)
        latents = torch.randn(1, 16, num_frames, *size, device=device, generator=generator)
        given = torch.zeros(1, num_frames, device=device)
        given[:, 0] = 1
        return cls(latents, given, given * 1e-4 + (1 - given) * 0.6)
