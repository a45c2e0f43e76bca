"""A model that waits in host memory: the same video, with each module lent for its stage only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_device import modules_of, size_of, tensors_of, two_memories
from stand_ins import stand_in
from test_generate import Listener, pixels
from torch import Tensor, nn

from pipeline.errors import Cancelled, OutOfMemory
from pipeline.generate import VideoPipeline
from pipeline.load import load_pipeline
from pipeline.memory_plan import MemoryChoice, MemoryPlan
from pipeline.network.attention import Choice, attend_native
from pipeline.progress import Progress, Stage, StageStarted, StepDone
from pipeline.spec import Pixels, VideoSpec
from pipeline.vae import lay_channels_last
from weights.store import WeightStore

__all__ = ["pixels"]

SPEC = VideoSpec(prompt="A calm sea.", seed=1, num_frames=9, num_inference_steps=2)


def load(memory: MemoryChoice, device: str = "cpu") -> VideoPipeline:
    return load_pipeline(WeightStore(stand_in()), device, memory=memory)


@pytest.fixture(scope="module")
def resident_video(pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("resident") / "out.mp4"
    load("resident").generate(SPEC, pixels, out, Listener().watcher)
    return out.read_bytes()


def test_an_offloaded_model_makes_the_same_bytes(
    pixels: Pixels, resident_video: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, out = load("offload"), tmp_path / "out.mp4"
    with two_memories(pipeline, monkeypatch) as memories:
        for _ in range(2):
            pipeline.generate(SPEC, pixels, out, Listener().watcher)
            assert out.read_bytes() == resident_video
            assert memories.lent == 0
    assert memories.ever_lent > size_of(*modules_of(pipeline).values())


def test_each_module_is_on_the_device_for_its_stage_only(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load("offload")
    modules = modules_of(pipeline)
    lent: dict[str, set[int]] = {}

    def note(moment: str) -> None:
        lent.setdefault(moment, set()).add(memories.lent)

    def tell(progress: Progress) -> bool:
        if isinstance(progress, StageStarted):
            note(f"start of {progress.stage.value}")
        elif isinstance(progress, StepDone):
            note("step")
        return False

    modules["language model"].register_forward_hook(lambda *_: note("text"))
    pipeline.vae.encoder.register_forward_hook(lambda *_: note("picture"))
    pipeline.vae.decoder.register_forward_hook(lambda *_: note("frames"))
    with two_memories(pipeline, monkeypatch) as memories:
        pipeline.generate(SPEC, pixels, tmp_path / "out.mp4", Listener(tell).watcher)

    vae, transformer = size_of(modules["vae"]), size_of(modules["transformer"])
    assert lent == {
        "start of text": {0},
        "text": {size_of(modules["language model"], pipeline.transformer.crossattn_proj)},
        "start of image": {0},
        "picture": {vae},
        "start of denoise": {0},
        "step": {transformer},
        "start of decode": {vae},
        "frames": {vae},
        "start of encode": {vae},
    }


def test_prompts_that_are_kept_need_no_language_model(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load("offload")
    with two_memories(pipeline, monkeypatch) as memories:
        for _ in range(2):
            before = memories.ever_lent
            pipeline.generate(SPEC, pixels, tmp_path / "out.mp4", Listener().watcher)
    modules = modules_of(pipeline)
    assert memories.ever_lent - before == size_of(modules["transformer"]) + 2 * size_of(
        modules["vae"]
    )


@pytest.mark.parametrize("moment", [Stage.DENOISE, 2, Stage.ENCODE])
def test_a_cancelled_video_leaves_nothing_lent(
    pixels: Pixels,
    resident_video: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: Stage | int,
) -> None:
    def reached(progress: Progress) -> bool:
        return moment in (getattr(progress, "stage", None), getattr(progress, "step", None))

    pipeline, out = load("offload"), tmp_path / "out.mp4"
    with two_memories(pipeline, monkeypatch) as memories:
        with pytest.raises(Cancelled):
            pipeline.generate(SPEC, pixels, out, Listener(reached).watcher)
        assert memories.lent == 0
        pipeline.generate(SPEC, pixels, out, Listener().watcher)
    assert out.read_bytes() == resident_video


def test_what_is_lent_keeps_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load("offload")
    lay_channels_last(pipeline.vae)
    strides = [tensor.stride() for tensor in tensors_of(pipeline.vae)]
    with two_memories(pipeline, monkeypatch), pipeline.placement.on_device(pipeline.vae):
        assert [tensor.stride() for tensor in tensors_of(pipeline.vae)] == strides
    assert [tensor.stride() for tensor in tensors_of(pipeline.vae)] == strides


def test_compiled_blocks_are_not_compiled_again_when_they_are_lent_again(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations = 0

    def counting(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal compilations
        compilations += 1
        forward: Callable[..., Any] = graph.forward
        return forward

    torch.compiler.reset()
    pipeline = load("offload")
    pipeline.transformer.compile_blocks(counting)
    # The watching mode would keep torch from compiling, so here copies are made without it.
    monkeypatch.setattr("pipeline.memory.copied", lambda tensor, _device: tensor.clone())
    counts = []
    for _ in range(2):
        pipeline.generate(SPEC, pixels, tmp_path / "out.mp4", Listener().watcher)
        counts.append(compilations)
    torch.compiler.reset()
    assert counts[0] > 0
    assert counts[1] == counts[0]


# Loading.


def test_an_offloaded_model_is_loaded_without_its_device() -> None:
    """A device that holds no numbers stands for one that has no room."""
    pipeline = load("offload", "meta")
    tensors = tensors_of(*modules_of(pipeline).values())
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert pipeline.placement.plan is MemoryPlan.OFFLOAD
    assert pipeline.placement.device.type == "meta"


@pytest.fixture
def full_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU without room, on a machine that has none: how often it was asked for memory."""
    asked: list[int] = []
    empty = torch.empty

    def empty_on(*arguments: Any, **options: Any) -> Tensor:
        if torch.device(options.get("device") or "cpu").type == "cuda":
            asked.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB.")
        made: Tensor = empty(*arguments, **options)
        return made

    native = Choice("native", attend_native)
    monkeypatch.setattr("pipeline.load.choose_attention", lambda *_, **__: native)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2**28, 2**34))
    monkeypatch.setattr("torch.empty", empty_on)
    return asked


@pytest.mark.parametrize(("memory", "num_tries"), [("auto", 1), ("offload", 0)])
def test_a_model_too_large_for_the_gpu_is_loaded_into_host_memory(
    full_gpu: list[int], memory: MemoryChoice, num_tries: int
) -> None:
    pipeline = load(memory, "cuda")
    assert len(full_gpu) == num_tries
    assert pipeline.placement.plan is MemoryPlan.OFFLOAD
    assert not pipeline.placement.can_offload
    tensors = tensors_of(*modules_of(pipeline).values())
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert pipeline.transformer.dtype == torch.bfloat16
    (convolution,) = [m for m in pipeline.vae.modules() if m is pipeline.vae.decoder.conv_in]
    assert isinstance(convolution, nn.Conv3d)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_model_that_is_to_be_resident_and_does_not_fit_is_refused(full_gpu: list[int]) -> None:
    with pytest.raises(OutOfMemory) as refusal:
        load("resident", "cuda")
    assert len(full_gpu) == 1
    assert str(refusal.value) == (
        "The GPU has too little memory for the model: 0.50 GiB more were needed, and 0.25 of "
        "16.00 GiB were free. Let the model wait in host memory: start with --memory auto."
    )


@pytest.mark.gpu
def test_on_a_gpu_an_offloaded_model_makes_the_same_bytes(pixels: Pixels, tmp_path: Path) -> None:
    made = []
    for memory in ("resident", "offload"):
        pipeline, out = load(memory, "cuda"), tmp_path / f"{memory}.mp4"
        pipeline.generate(SPEC, pixels, out, Listener().watcher)
        made.append(out.read_bytes())
        devices = {tensor.device.type for tensor in tensors_of(*modules_of(pipeline).values())}
        assert devices == {"cuda" if memory == "resident" else "cpu"}
    assert made[0] == made[1]
