"""Single modules of a stand-in, on the CPU."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from pipeline.load import Loader
from pipeline.memory import HOST
from pipeline.memory_plan import MemoryPlan
from pipeline.network.transformer import CosmosTransformer
from weights.store import WeightStore


def load_transformer(store: WeightStore, dtype: torch.dtype, **choices: Any) -> CosmosTransformer:
    """The transformer alone, with its choices open; see `CosmosTransformer`."""
    return _loader(store, dtype).transformer(**choices)


def load_vae(store: WeightStore) -> AutoencoderKLWan:
    """The VAE alone, in float32."""
    return _loader(store, torch.float32).vae()


def _loader(store: WeightStore, dtype: torch.dtype) -> Loader:
    return Loader(store, HOST, dtype, lambda _text, _fraction: None, MemoryPlan.RESIDENT)
