"""Files to modules: the dtype, the memory they are put in, the strict state dict, the guardrail.

Modules are built without memory for their parameters; each tensor then goes from its file straight
to the device, or to the host memory where its module waits. Buffers, which no file holds, are
computed as the module is built.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLTextConfig,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from pipeline.causal_convolution import convolve_by_onednn
from pipeline.generate import VideoPipeline
from pipeline.guardrail import Guardrail, GuardrailKind
from pipeline.judges import LOCAL, TextJudge, chosen_judges, guardrail_by
from pipeline.libraries import check_cudnn
from pipeline.memory import HOST, Placement, RanOutOfMemory, run_or_free
from pipeline.memory_need import Placing, choose_placing
from pipeline.memory_plan import MemoryChoice, MemoryPlan
from pipeline.network.attention import Choice, choose_attention
from pipeline.network.kernels.proof import KernelChoice, choose_kernels
from pipeline.network.transformer import CosmosTransformer, TransformerConfig
from pipeline.spec import Sampler, latent_frames
from pipeline.text import MAX_TOKENS, TextEncoder, Tokenizer
from pipeline.timing import Estimator
from pipeline.unipc import UniPC
from pipeline.vae_decoder import decoder_channels
from pipeline.work import StepCost, frame_tokens
from weights.header import TensorInfo
from weights.store import WeightStore

Report = Callable[[str, float], None]
"""Hears what is being loaded and the fraction of the checkpoint's bytes read, 0 to 1."""

_COMPONENTS = ("text_encoder", "transformer", "vae")


def default_dtype(device: torch.device, store: WeightStore) -> torch.dtype:
    """The checkpoint's on a GPU; float32 on a CPU, where bfloat16 is slower and saves nothing."""
    dtype: torch.dtype = getattr(torch, store.profile.dtype)
    return dtype if device.type == "cuda" else torch.float32


def load_pipeline(store: WeightStore, device: str, **choices: Any) -> VideoPipeline:
    """Load one checkpoint for a device; see `load_pipelines`."""
    (pipeline,) = load_pipelines([store], device, **choices).values()
    return pipeline


def load_pipelines(
    stores: Sequence[WeightStore],
    device: str,
    *,
    guardrail: str | Guardrail = "required",
    dtype: torch.dtype | None = None,
    attention: str = "auto",
    memory: MemoryChoice = "auto",
    report: Report = lambda _text, _fraction: None,
) -> dict[Sampler, VideoPipeline]:
    """Load checkpoints for a device, each by the sampler that it is trained for.

    Args:
        stores: over one text model and one VAE, which are those of the first.
        device: as torch names it, `cpu` or `cuda:0`.
        guardrail: `required`, `text` or `off`, as in `GuardrailKind`, or the caller's own.
        dtype: of the large matrix products; by default that of `default_dtype`.
        attention: the backend, or `auto` for the fastest here: see `choose_attention`.
        memory: where the modules wait; with `auto` by what the device has free.

    Raises:
        CheckpointError: a tensor is missing, unexpected or misshapen.
        ValueError: the transformer or the sampler is another than those built here, or `guardrail`
            is a URL.
        GuardrailMissing: a checkpoint requires a guardrail, and there is none.
        AttentionUnavailable: the backend asked for does not run here.
        CudnnTooOld: the cuDNN that is there makes wrong convolutions.
        OutOfMemory: there is too little memory for the model.
    """
    judges = chosen_judges(stores, guardrail)
    target = torch.device(device)
    dtype = dtype or default_dtype(target, stores[0])
    check_cudnn(target, dtype)
    # torch's default rounds float32 in convolutions, and in nothing else, to the 10 bits of TF32.
    torch.backends.cudnn.allow_tf32 = False

    def assemble(placing: Placing) -> dict[Sampler, VideoPipeline]:
        loaders = make_loaders(stores, target, dtype, report, placing.plan, swaps=placing.swaps)
        return _assemble(loaders, judges, attention, placing, may_fall=memory == "auto")

    def load(placing: Placing) -> dict[Sampler, VideoPipeline]:
        return run_or_free(lambda: assemble(placing), target, placing.plan)

    placing = choose_placing(stores, target, dtype, memory, has_judge=judges in LOCAL)
    report(placing.reason, 0.0)
    try:
        pipelines = load(placing)
    except RanOutOfMemory as error:
        is_last = placing.plan is MemoryPlan.STREAM
        if is_last or not (error.shortage.is_on_device and memory == "auto"):
            raise
        reason = f"Loading the model ran out of the GPU's memory: {error.shortage}."
        report("Loading the model into host memory, because the GPU has too little", 0.0)
        pipelines = load(Placing(MemoryPlan.STREAM, reason))
    report("The model is loaded.", 1.0)
    return pipelines


def _assemble(
    loaders: Sequence["Loader"],
    judges: Guardrail | GuardrailKind,
    attention: str,
    placing: Placing,
    *,
    may_fall: bool,
) -> dict[Sampler, VideoPipeline]:
    first = loaders[0]
    networks = [_network(loader, attention) for loader in loaders]
    transformers = [network.transformer for network in networks]
    tokenizer, language_model, vae = first.tokenizer(), first.language_model(), first.vae()
    text_judge = None
    if judges in LOCAL:
        first.report("Loading the guardrail", 1.0)
        text_judge = TextJudge.beside(first.store.root, first.dtype, first.home("guardrail"))
    placement = Placement(
        first.device,
        language_model,
        (*transformers, vae),
        placing.plan,
        lent_with_text=() if text_judge is None else (text_judge.model,),
        reason=placing.reason,
        may_fall=may_fall,
        taking_turns=transformers if placing.swaps else (),
    )
    pipelines, guardrail = {}, guardrail_by(judges, text_judge, placement)
    for loader, network in zip(loaders, networks, strict=True):
        profile, transformer = loader.store.profile, network.transformer
        sampler = Sampler(profile.sampler)
        pipelines[sampler] = VideoPipeline(
            width=profile.width,
            height=profile.height,
            max_frames=profile.max_frames,
            sampler=sampler,
            text=TextEncoder(
                tokenizer,
                language_model,
                transformer.project_text,
                modules=(language_model, transformer.crossattn_proj),
            ),
            transformer=transformer,
            vae=vae,
            placement=placement,
            scheduler_config=loader.store.config("scheduler"),
            guardrail=guardrail,
            estimator=Estimator(step_cost(transformer.config, loader.store)),
            attention=network.attention,
            kernels=network.kernels,
        )
    return pipelines


@dataclass(frozen=True, slots=True)
class _Network:
    transformer: CosmosTransformer
    attention: Choice
    kernels: KernelChoice


def _network(loader: "Loader", attention: str) -> _Network:
    """The transformer of one checkpoint, with the kernels and the backend that it runs by."""
    store = loader.store
    if Sampler(store.profile.sampler) is Sampler.UNIPC:
        # Refuses another sampler now, not in the first job.
        UniPC(store.config("scheduler"), num_steps=1)
    transformer, kernels, choice = load_transformer(loader, attention)
    return _Network(transformer, choice, kernels)


def load_transformer(
    loader: "Loader", attention: str
) -> tuple[CosmosTransformer, KernelChoice, Choice]:
    """The transformer, with the kernels that work here and the backend for the longest video."""
    transformer, store = loader.transformer(), loader.store
    config = transformer.config
    kernels = choose_kernels(
        loader.device,
        transformer.dtype,
        transformer.residual_dtype,
        heads=config.num_attention_heads,
        head_dim=config.attention_head_dim,
        vae_channels=decoder_channels(store.config("vae")),
    )
    choice = choose_attention(
        loader.device,
        transformer.dtype,
        tokens=latent_frames(store.profile.max_frames) * tokens_of_frame(store),
        heads=config.num_attention_heads,
        head_dim=config.attention_head_dim,
        name=attention,
    )
    transformer.attend = choice.attend
    return transformer, kernels, choice


def step_cost(config: TransformerConfig, store: WeightStore) -> StepCost:
    """What one network evaluation costs at the checkpoint's frame size."""
    return StepCost.from_shape(
        width=config.width,
        mlp_ratio=config.mlp_ratio,
        layers=config.num_layers,
        text_tokens=MAX_TOKENS,
        frame_tokens=tokens_of_frame(store),
    )


def tokens_of_frame(store: WeightStore) -> int:
    """The tokens of one latent frame at the checkpoint's size."""
    return frame_tokens(store.profile.width, store.profile.height)


def make_loaders(
    stores: Sequence[WeightStore],
    device: torch.device,
    dtype: torch.dtype,
    report: Report,
    plan: MemoryPlan,
    *,
    swaps: bool,
) -> list["Loader"]:
    """One for each checkpoint: all of the first, and the transformers of the others.

    The fractions that they report are of the bytes of all.
    """
    parts = [_COMPONENTS, *[("transformer",)] * (len(stores) - 1)]
    sizes = [
        sum(store.size(name) for name in part) for store, part in zip(stores, parts, strict=True)
    ]

    def report_part(index: int) -> Report:
        before, own, total = sum(sizes[:index]), sizes[index], sum(sizes)
        return lambda text, fraction: report(text, (before + fraction * own) / total)

    return [
        Loader(store, device, dtype, report_part(index), plan, swaps=swaps, components=parts[index])
        for index, store in enumerate(stores)
    ]


class Loader:
    """Reads one checkpoint and counts the bytes as it goes.

    What a module is like follows from `device`, which computes, wherever `plan` lets it wait.

    Args:
        swaps: whether the transformer waits in host memory until it is used.
        components: those that are loaded from this checkpoint.
    """

    def __init__(
        self,
        store: WeightStore,
        device: torch.device,
        dtype: torch.dtype,
        report: Report,
        plan: MemoryPlan,
        *,
        swaps: bool = False,
        components: Sequence[str] = _COMPONENTS,
    ) -> None:
        self.store = store
        self.device = device
        self.dtype = dtype
        self.report = report
        self.plan = plan
        self.swaps = swaps
        self._bytes_total = sum(store.size(component) for component in components)
        self._bytes_read = 0

    def transformer(self, **choices: Any) -> CosmosTransformer:
        config = TransformerConfig.from_json(self.store.config("transformer"))
        with init_empty_weights(include_buffers=False):
            module = CosmosTransformer(config, **choices)
        self._fill(
            module,
            "transformer",
            CosmosTransformer.parameter_dtype,
            CosmosTransformer.published_names,
        )
        return module

    def language_model(self) -> Qwen2_5_VLTextModel:
        """The text half of the vision-language model; its vision tower and head stay on disk."""
        config = Qwen2_5_VLConfig.from_dict(self.store.config("text_encoder"))
        with init_empty_weights(include_buffers=False):
            # The sub-configuration is declared as what a file may hold; it is an object by now.
            module = Qwen2_5_VLTextModel(cast(Qwen2_5_VLTextConfig, config.text_config))
        self._fill(module, "text_encoder")
        return module

    def vae(self) -> AutoencoderKLWan:
        with init_empty_weights(include_buffers=False):
            module: AutoencoderKLWan = AutoencoderKLWan.from_config(self.store.config("vae"))
        self._fill(module, "vae")
        if self.device.type == "cpu":
            convolve_by_onednn(module)
        return module

    def tokenizer(self) -> Tokenizer:
        folder = self.store.folder("tokenizer")
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        chat_tokenizer: Tokenizer = tokenizer
        return chat_tokenizer

    def _fill(
        self,
        module: nn.Module,
        component: str,
        parameter_dtype: Callable[[str, torch.dtype], torch.dtype] = lambda _name, dtype: dtype,
        published_names: Callable[[str], tuple[str, ...]] = lambda name: (name,),
    ) -> None:
        """Put every tensor of the component's files into the module, and nothing else."""
        empty: dict[str, Tensor] = module.state_dict()
        expected = _by_published_name(empty, published_names)
        home = self.home(component)
        infos = self.store.match(component, {name: t.shape for name, t in expected.items()})
        filled = {
            name: torch.empty(tensor.shape, dtype=parameter_dtype(name, self.dtype), device=home)
            for name, tensor in empty.items()
        }
        self._read(infos, _by_published_name(filled, published_names), component)
        module.load_state_dict(filled, assign=True)
        module.to(home)  # the buffers, which no file holds
        module.requires_grad_(False).eval()
        _assert_complete(module)

    def home(self, component: str) -> torch.device:
        """Where the plan has a component wait."""
        waits = (
            self.plan is MemoryPlan.STREAM
            or (self.plan is MemoryPlan.OFFLOAD and component in ("text_encoder", "guardrail"))
            or (self.swaps and component == "transformer")
        )
        return HOST if waits else self.device

    def _read(
        self, infos: dict[str, TensorInfo], places: dict[str, Tensor], component: str
    ) -> None:
        """Copy each tensor from its file to its place, file by file."""
        by_file: defaultdict[Path, list[str]] = defaultdict(list)
        for name, info in infos.items():
            by_file[info.file].append(name)
        for file, names in by_file.items():
            with safe_open(file, framework="pt") as shard:
                for name in names:
                    tensor = shard.get_tensor(infos[name].key)
                    self._bytes_read += tensor.nbytes
                    places[name].copy_(tensor)
            self.report(f"Loading {component}", min(1.0, self._bytes_read / self._bytes_total))


def _by_published_name(
    tensors: Mapping[str, Tensor], published_names: Callable[[str], tuple[str, ...]]
) -> dict[str, Tensor]:
    """Views of the tensors, split into the published ones that they are made of."""
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        names = published_names(name)
        parts |= zip(names, tensor.chunk(len(names)), strict=True)
    return parts


def _assert_complete(module: nn.Module) -> None:
    left = [name for name, tensor in module.named_parameters() if tensor.is_meta]
    left += [name for name, tensor in module.named_buffers() if tensor.is_meta]
    assert not left, f"{type(module).__name__} was left without {', '.join(left)}"
