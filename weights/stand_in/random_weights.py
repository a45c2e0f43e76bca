"""Random weights, for tests of the numbers: what has no structure hides no mistake."""

from typing import TYPE_CHECKING, Any

from weights.stand_in.chat import END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, chat_template

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2Tokenizer

HIDDEN = 64
LAYERS = 2
EMBEDDING = 32

# The encoder's last layer: latents of the photograph get the spread of the published ones.
GAINS = {"quant_conv.weight": 6.0}


def tokenizer() -> "Qwen2Tokenizer":
    """A byte-level tokenizer without merges: any text is encoded, in 264 ids."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    made = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))},
        merges=[],
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=SPECIAL_TOKENS,
        model_max_length=131072,
    )
    made.chat_template = chat_template()
    return made


def transformer_config() -> dict[str, Any]:
    """The arguments of CosmosTransformer3DModel."""
    return {
        "in_channels": 17,
        "out_channels": 16,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "num_layers": 3,
        "mlp_ratio": 4.0,
        "text_embed_dim": EMBEDDING,
        "adaln_lora_dim": 16,
        "max_size": (128, 240, 240),
        "patch_size": (1, 2, 2),
        "rope_scale": (1.0, 3.0, 3.0),
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
        "use_crossattn_projection": True,
        "crossattn_proj_in_channels": HIDDEN * LAYERS,
        "encoder_hidden_states_channels": EMBEDDING,
    }


def vae_config() -> dict[str, Any]:
    """The arguments of AutoencoderKLWan: Wan 2.1's, thinner, with the published latents' spread."""
    return {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}


def draw(module: "torch.nn.Module", seed: int) -> None:
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
        parameter.data = value


def draw_for_oracle(transformer: "torch.nn.Module", seed: int) -> None:
    """Draw every matrix small and make attention sharp; the rest as usual."""
    import torch

    draw(transformer, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(transformer.named_parameters()):
        if parameter.ndim >= 2:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
        elif name.endswith((".norm_q.weight", ".norm_k.weight")):
            parameter.data.fill_(2.0)
