"""What a video takes of a GPU, by stage and memory plan, counted on a machine without one.

    python -m benchmarks.memory_counts [--frames N] [--out FILE]

Each stage runs at full size on torch's `meta` device, as it would on a GPU, and every tensor is
followed. Not counted: what CUDA itself takes, workspaces within a kernel, and memory that the
allocator holds and cannot use. Beside each saving that was made is what the stage takes without.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from benchmarks.full_size import FULL, SCHEDULER, random_vae
from benchmarks.live_bytes import LiveBytes
from pipeline import vae as vae_module
from pipeline.denoise import denoise
from pipeline.memory_need import MemoryNeed
from pipeline.memory_plan import MemoryPlan
from pipeline.network import layers
from pipeline.network.kernels.residual import add_gated_modulate
from pipeline.network.transformer import CosmosTransformer
from pipeline.spec import CLIP_FRAMES, VideoSpec, latent_frames
from pipeline.text import MAX_TOKENS, TextEncoder
from pipeline.vae_decoder import FrameDecoder

META = torch.device("meta")
BF16 = torch.bfloat16
CONFIG = FULL.config
_KERNELS = "pipeline.network.kernels"


def text_model() -> Qwen2_5_VLTextModel:
    """The published one, without numbers."""
    with META:
        model = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**FULL.text))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(BF16)
    model.requires_grad_(False)
    return model


def transformer() -> CosmosTransformer:
    """The published one, without numbers."""
    with META:
        network = CosmosTransformer(CONFIG)
    for name, parameter in network.named_parameters():
        parameter.data = parameter.data.to(network.parameter_dtype(name, BF16))
    network.attend = lambda query, _key, _value: torch.empty_like(query).flatten(2)
    return network.requires_grad_(False).eval()


def vae() -> AutoencoderKLWan:
    """The published one, without numbers."""
    return random_vae(FULL, META, BF16)


def size_of(*modules: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.nbytes for m in modules for t in (*m.parameters(), *m.buffers()))


@contextmanager
def fused() -> Iterator[None]:
    """Every kernel's memory is asked for as on a GPU; none runs."""
    kernels = {
        "residual": "add_gated_modulate_kernel",
        "heads": "norm_heads_kernel",
        "causal": "causal_input_kernel",
    }
    with ExitStack() as patches:
        for module, kernel in kernels.items():
            # A mock would keep the tensors that it is called with.
            patches.enter_context(patch(f"{_KERNELS}.{module}.can_fuse", lambda _tensor: True))
            patches.enter_context(patch(f"{_KERNELS}.{module}.{kernel}", _NoLaunch()))
        yield


class _NoLaunch:
    """A Triton kernel that does nothing."""

    def __getitem__(self, _grid: tuple[int, ...]) -> Any:
        return lambda *_arguments, **_options: None


class _Tokenizer:
    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        del conversation, options
        return {"input_ids": [0] * MAX_TOKENS}


def text_peak(model: Qwen2_5_VLTextModel, network: CosmosTransformer) -> int:
    """Bytes of encoding two prompts, one after the other."""
    encoder = TextEncoder(_Tokenizer(), model, network.project_text)
    with LiveBytes(META) as bytes_:
        bytes_.know(*model.parameters(), *model.buffers(), *network.parameters())
        for prompt in ("one", "two"):
            encoder.encode(prompt)
    return int(bytes_.peak)


def denoise_peak(network: CosmosTransformer, num_frames: int) -> int:
    """Bytes of three guided steps: by the third the sampler remembers all that it ever does."""
    spec = VideoSpec(prompt="", seed=0, num_frames=num_frames, num_inference_steps=3)
    given = torch.empty(1, 16, 1, *FULL.latent_size, device=META)
    text = torch.empty(MAX_TOKENS, CONFIG.text_embed_dim, device=META, dtype=BF16)
    with fused(), LiveBytes(META) as bytes_:
        bytes_.know(*network.parameters(), given, text)
        denoise(network, SCHEDULER, given, text, text, spec, lambda *_: None)
    return int(bytes_.peak)


def encode_peak(model: AutoencoderKLWan, num_frames: int) -> int:
    """Bytes of encoding pictures: the first one, and then four at once."""
    video = torch.empty(1, 3, num_frames, FULL.height, FULL.width)
    with LiveBytes(META) as bytes_:
        bytes_.know(*model.parameters())
        vae_module.encode(model, video)
    return int(bytes_.peak)


def decode_peak(model: AutoencoderKLWan, *, is_ours: bool = True) -> int:
    """Bytes of decoding four latent frames: by the second every convolution keeps two frames."""
    latents = torch.empty(1, 16, 4, *FULL.latent_size, device=META)
    with ExitStack() as stack:
        if is_ours:
            stack.enter_context(
                patch.object(
                    vae_module, "_frame_decoder", lambda vae: FrameDecoder(vae.decoder).decode
                )
            )
        stack.enter_context(patch.object(vae_module, "to_frames", _no_frames))
        stack.enter_context(fused())
        bytes_ = stack.enter_context(LiveBytes(META))
        bytes_.know(*model.parameters(), latents)
        for _ in vae_module.decode(model, latents):
            pass
    return int(bytes_.peak)


def _no_frames(_video: Tensor) -> Iterator[Any]:
    return iter(())


@contextmanager
def streams_kept() -> Iterator[None]:
    """Each sub-layer makes a new residual stream, and the callers keep the old ones."""
    right = add_gated_modulate

    def beside(*arguments: Any, into: Any = None, **options: Any) -> Any:
        del into
        return right(*arguments, **options)

    with patch.object(layers, "add_gated_modulate", beside):
        yield


def counted_need(num_frames: int) -> MemoryNeed:
    """`memory_need` for the published model, by following every tensor."""
    text, network, autoencoder = text_model(), transformer(), vae()
    return MemoryNeed(
        text_model=size_of(text),
        text_layer=size_of(text.layers[0]),
        text_projection=size_of(network.crossattn_proj),
        transformer=size_of(network),
        vae=size_of(autoencoder),
        text_stage=text_peak(text, network),
        denoise_stage=denoise_peak(network, num_frames),
        encode_stage=encode_peak(autoencoder, CLIP_FRAMES),
        decode_stage=decode_peak(autoencoder),
    )


def counts(num_frames: int) -> dict[str, Any]:
    """All of it, in GiB."""
    need = counted_need(num_frames)
    network, autoencoder = transformer(), vae()
    whole = patch.object(layers, "WIDENED_BYTES", 2**60)
    with streams_kept():
        kept = denoise_peak(network, num_frames)
    with whole:
        widened = denoise_peak(network, num_frames)
    with streams_kept(), whole:
        neither = denoise_peak(network, num_frames)
    weights = {name: getattr(need, name) for name in ("text_model", "transformer", "vae")}
    stages = {
        "text": need.text_stage,
        "encode the first frame": encode_peak(autoencoder, 1),
        "encode a clip": need.encode_stage,
        "denoise": need.denoise_stage,
        "denoise, streams kept": kept,
        "denoise, feed-forward whole": widened,
        "denoise, both": neither,
        "decode": need.decode_stage,
        "decode by diffusers": decode_peak(autoencoder, is_ours=False),
    }
    resident = sum(weights.values())
    return {
        "frames": num_frames,
        "latent frames": latent_frames(num_frames),
        "weights, GiB": _gib({**weights, "text_layer": need.text_layer}),
        "stages beside the weights, GiB": _gib(stages),
        "resident, GiB": _gib({name: resident + size for name, size in stages.items()}),
        "peak by plan, GiB": _gib({plan.value: need.under(plan) for plan in MemoryPlan}),
    }


def _gib(sizes: dict[str, int]) -> dict[str, float]:
    return {name: round(size / 2**30, 2) for name, size in sizes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the memory of a video on a GPU.")
    parser.add_argument("--frames", type=int, default=FULL.num_frames)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory-counts.json"))
    options = parser.parse_args()
    result = counts(options.frames)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
