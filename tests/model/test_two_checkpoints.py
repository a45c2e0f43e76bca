"""Two transformers over one text model and one VAE, in one process."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stand_ins import stand_in
from test_generate import Listener, pixels
from test_memory_counts import GIB, counted
from torch import nn

from pipeline.generate import VideoPipeline
from pipeline.load import load_pipeline, load_pipelines
from pipeline.memory import Placement
from pipeline.memory_need import SPARE, MemoryNeed, memory_need
from pipeline.memory_plan import MemoryPlan
from pipeline.spec import Pixels, Sampler, VideoSpec
from weights.store import WeightStore

__all__ = ["counted", "pixels"]

SPEC = VideoSpec(prompt="A calm sea.", seed=1, num_frames=9, num_inference_steps=2)
DISTILLED = replace(SPEC, guidance_scale=1.0, sampler=Sampler.TRIGFLOW)


def stores() -> list[WeightStore]:
    return [WeightStore(stand_in()), WeightStore(stand_in(seed=0, sampler="trigflow"))]


@pytest.fixture(scope="module")
def pipelines() -> dict[Sampler, VideoPipeline]:
    return load_pipelines(stores(), "cpu")


def test_text_model_and_vae_are_loaded_once(pipelines: dict[Sampler, VideoPipeline]) -> None:
    base, distilled = pipelines[Sampler.UNIPC], pipelines[Sampler.TRIGFLOW]
    assert base.vae is distilled.vae
    assert base.text._language_model is distilled.text._language_model
    assert base.placement is distilled.placement
    assert base.transformer is not distilled.transformer


def test_each_makes_the_video_that_it_makes_alone(
    pipelines: dict[Sampler, VideoPipeline], pixels: Pixels, tmp_path: Path
) -> None:
    for store, spec in zip(stores(), (SPEC, DISTILLED), strict=True):
        made = []
        for pipeline in (pipelines[spec.sampler], load_pipeline(store, "cpu")):
            out = tmp_path / "out.mp4"
            pipeline.generate(spec, [pixels], out, Listener().watcher)
            made.append(out.read_bytes())
        assert made[0] == made[1]


def test_a_checkpoint_refuses_what_the_other_one_is_for(
    pipelines: dict[Sampler, VideoPipeline], pixels: Pixels, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="sampled by unipc; this checkpoint is trained for trig"):
        pipelines[Sampler.TRIGFLOW].generate(SPEC, [pixels], tmp_path / "o", Listener().watcher)


def test_loading_counts_the_bytes_of_both() -> None:
    heard: list[tuple[str, float]] = []
    load_pipelines(stores(), "cpu", report=lambda text, fraction: heard.append((text, fraction)))
    fractions = [fraction for text, fraction in heard if text.startswith("Loading ")]
    assert [text for text, _ in heard].count("Loading transformer") == 2
    assert fractions == sorted(fractions) or fractions[1] > fractions[0]
    assert max(fractions) == pytest.approx(1.0, abs=0.01)
    assert heard[-1] == ("The model is loaded.", 1.0)


# How they share a device.


class Watch:
    """Counts what is lent to a device that has the host's memory, in place of `copied`."""

    def __init__(self) -> None:
        self.lent: list[torch.Tensor] = []

    def __call__(self, tensor: torch.Tensor, _device: torch.device) -> torch.Tensor:
        self.lent.append(tensor)
        return tensor.clone()


def test_transformers_take_turns_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    monkeypatch.setattr("pipeline.memory.copied", watch)
    text, vae = nn.ModuleDict({"layers": nn.ModuleList()}), nn.Linear(1, 1)
    first, second = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    waiting = {
        id(module): module.get_parameter("0.weight").data_ptr() for module in (first, second)
    }

    def is_there(module: nn.Sequential) -> bool:
        return module.get_parameter("0.weight").data_ptr() != waiting[id(module)]

    placement = Placement(
        torch.device("cpu"),
        text,
        (first, second, vae),
        MemoryPlan.RESIDENT,
        may_fall=True,
        taking_turns=(first, second),
    )
    with placement.on_device(first):
        assert is_there(first)
    # It stays until the other one is used, and is not copied again.
    with placement.on_device(text, first[1], vae), placement.on_device(first):
        assert is_there(first) and len(watch.lent) == 4
    with placement.on_device(text, second[0]):
        assert is_there(second) and is_there(first) and len(watch.lent) == 6
    assert not is_there(second)
    with placement.on_device(second):
        assert is_there(second) and not is_there(first)
    placement.fall()
    assert not is_there(second) and placement.plan is MemoryPlan.STREAM


def test_a_turn_that_fails_leaves_nothing_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [nn.Linear(2, 2) for _ in range(2)]
    text = nn.ModuleDict({"layers": nn.ModuleList()})
    placement = Placement(
        torch.device("cpu"), text, modules, MemoryPlan.RESIDENT, may_fall=True, taking_turns=modules
    )
    before = modules[0].weight.data_ptr()
    copies = iter([torch.zeros(2, 2)])
    monkeypatch.setattr("pipeline.memory.copied", lambda *_: next(copies))
    with pytest.raises((RuntimeError, StopIteration)), placement.on_device(modules[0]):
        pass
    assert modules[0].weight.data_ptr() == before
    monkeypatch.setattr("pipeline.memory.copied", lambda tensor, _device: tensor.clone())
    with placement.on_device(modules[0]):
        assert modules[0].weight.data_ptr() != before


@pytest.mark.parametrize("refusal", [None, "Only 1.0 GiB of host memory are free."])
def test_what_waits_for_a_gpu_is_pinned_once(
    monkeypatch: pytest.MonkeyPatch, refusal: str | None
) -> None:
    pinned: list[torch.Tensor] = []

    def pin(tensors: list[torch.Tensor]) -> str | None:
        pinned.extend(tensors)
        return refusal

    monkeypatch.setattr("pipeline.memory.pin", pin)
    layer, *transformers = (nn.Linear(2, 2) for _ in range(3))
    placement = Placement(
        torch.device("cuda"),
        nn.ModuleDict({"layers": nn.ModuleList([layer])}),
        transformers,
        MemoryPlan.OFFLOAD,
        may_fall=True,
        taking_turns=transformers,
    )
    placement.fall()
    waiting = [tensor for each in (layer, *transformers) for tensor in each.parameters()]
    assert list(map(id, pinned)) == list(map(id, waiting))
    assert placement.warning == (
        refusal
        and f"{refusal} So weights are copied to the GPU from memory that is not pinned, which "
        "takes longer."
    )


@pytest.mark.parametrize(
    ("card_gib", "plan", "swaps"),
    [
        (80, "resident", False),
        (32, "resident", False),
        (27, "resident", True),
        (24, "offload", False),
        (12, "offload", True),
        (10, "stream", False),
    ],
)
def test_what_shares_a_card_is_chosen_by_its_memory(
    counted: MemoryNeed, card_gib: int, plan: str, swaps: bool
) -> None:
    both = replace(counted, other_transformers=counted.transformer)
    free = int(card_gib * 0.98 * GIB) - int(0.7 * GIB)
    chosen = both.choose(free)
    assert chosen == plan
    if chosen is not MemoryPlan.STREAM:
        assert both.swaps(chosen, free) is swaps
    assert both.under(chosen, swaps=swaps) + SPARE <= free
    assert not counted.swaps(chosen, 0)


def test_the_transformers_of_all_checkpoints_are_counted_and_the_rest_once() -> None:
    one, both = memory_need(stores()[:1], torch.bfloat16), memory_need(stores(), torch.bfloat16)
    assert both == replace(one, other_transformers=one.transformer)


@pytest.mark.parametrize(("free", "words"), [(2**40, "all stay"), (0, "take turns")])
def test_the_log_says_how_they_share_it(
    monkeypatch: pytest.MonkeyPatch, free: int, words: str
) -> None:
    from pipeline.memory_need import choose_placing

    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free, 2**40))
    placing = choose_placing(stores(), torch.device("cuda"), torch.bfloat16, "offload")
    assert placing.reason == f"It was asked for. The 2 transformers {words} on the GPU."
    assert placing.swaps == (words == "take turns")
