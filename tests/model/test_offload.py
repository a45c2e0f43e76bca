"""A model that waits in host memory: the same video, with each module lent for its stage only."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fake_device import modules_of, size_of, tensors_of, two_memories
from stand_ins import stand_in
from test_generate import Listener, pixels
from torch import Tensor

from pipeline.errors import Cancelled, OutOfMemory
from pipeline.generate import VideoPipeline
from pipeline.load import load_pipeline
from pipeline.memory_plan import MemoryChoice, MemoryPlan
from pipeline.network.attention import Choice, attend_native
from pipeline.progress import Progress, Stage, StageStarted, StepDone
from pipeline.spec import Pixels, VideoSpec
from weights.store import WeightStore

__all__ = ["pixels"]

SPEC = VideoSpec(prompt="A calm sea.", seed=1, num_frames=9, num_inference_steps=2)


def load(memory: MemoryChoice, device: str = "cpu") -> VideoPipeline:
    return load_pipeline(WeightStore(stand_in()), device, memory=memory)


@pytest.fixture(scope="module")
def resident_video(pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("resident") / "out.mp4"
    load("resident").generate(SPEC, [pixels], out, Listener().watcher)
    return out.read_bytes()


@pytest.mark.parametrize("plan", ["offload", "stream"])
def test_a_model_that_waits_makes_the_same_bytes(
    pixels: Pixels,
    resident_video: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plan: MemoryChoice,
) -> None:
    pipeline, out = load(plan), tmp_path / "out.mp4"
    with two_memories(pipeline, monkeypatch) as memories:
        for _ in range(2):
            pipeline.generate(SPEC, [pixels], out, Listener().watcher)
            assert out.read_bytes() == resident_video
            assert memories.lent == 0
    assert memories.ever_lent >= size_of(
        modules_of(pipeline)["language model"].get_submodule("layers")
    )


@pytest.mark.parametrize("plan", ["offload", "stream"])
def test_each_module_is_on_the_device_for_its_stage_only(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: MemoryChoice
) -> None:
    pipeline = load(plan)
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
        pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", Listener(tell).watcher)

    text_model, vae, transformer = modules["language model"], 0, 0
    layers, embedding = map(text_model.get_submodule, ("layers", "embed_tokens"))
    text = size_of(text_model) - size_of(layers, embedding)
    text += 2 * size_of(layers.get_submodule("0"))
    if plan == "stream":
        vae, transformer = size_of(modules["vae"]), size_of(modules["transformer"])
        text += size_of(pipeline.transformer.crossattn_proj)
    assert lent == {
        "start of text": {0},
        "text": {text},
        "start of image": {0},
        "picture": {vae},
        "start of denoise": {0},
        "step": {transformer},
        "start of decode": {vae},
        "frames": {vae},
        "start of encode": {vae},
    }


def test_a_streamed_layer_runs_while_the_next_one_is_copied(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two layers are on the device at most, and each is copied once a prompt, in order."""
    pipeline = load("stream")
    layers = list(modules_of(pipeline)["language model"].get_submodule("layers").children())
    waiting = [layer.get_parameter("mlp.up_proj.weight").data_ptr() for layer in layers]
    events: list[str] = []
    with two_memories(pipeline, monkeypatch) as memories:

        def copy_to(place: Tensor, tensor: Tensor) -> None:
            if tensor.data_ptr() in waiting:
                events.append(f"copy {waiting.index(tensor.data_ptr())}")
            memories.lend_in(place, tensor)

        monkeypatch.setattr("pipeline.layer_stream.copy_to", copy_to)
        for index, layer in enumerate(layers):
            layer.get_submodule("mlp").register_forward_hook(
                lambda *_, index=index: events.append(f"run {index}")
            )
        pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", Listener().watcher)
    last = len(layers) - 1
    one_prompt = ["copy 0"]
    for index in range(last):
        one_prompt += [f"copy {index + 1}", f"run {index}"]
    assert events == 2 * [*one_prompt, f"run {last}"]
    assert [layer.get_parameter("mlp.up_proj.weight").data_ptr() for layer in layers] == waiting


def test_prompts_that_are_kept_need_no_language_model(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load("stream")
    with two_memories(pipeline, monkeypatch) as memories:
        for _ in range(2):
            before = memories.ever_lent
            pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", Listener().watcher)
    modules = modules_of(pipeline)
    assert memories.ever_lent - before == size_of(modules["transformer"]) + 2 * size_of(
        modules["vae"]
    )


@pytest.mark.parametrize("moment", [Stage.IMAGE, Stage.DENOISE, 2, Stage.ENCODE])
def test_a_cancelled_video_leaves_nothing_lent(
    pixels: Pixels,
    resident_video: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: Stage | int,
) -> None:
    def reached(progress: Progress) -> bool:
        return moment in (getattr(progress, "stage", None), getattr(progress, "step", None))

    pipeline, out = load("stream"), tmp_path / "out.mp4"
    with two_memories(pipeline, monkeypatch) as memories:
        with pytest.raises(Cancelled):
            pipeline.generate(SPEC, [pixels], out, Listener(reached).watcher)
        assert memories.lent == 0
        pipeline.generate(SPEC, [pixels], out, Listener().watcher)
    assert out.read_bytes() == resident_video


def test_what_is_lent_keeps_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load("stream")
    kernel = pipeline.vae.decoder.conv_in.weight
    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last_3d)
    strides = [tensor.stride() for tensor in tensors_of(pipeline.vae)]
    with two_memories(pipeline, monkeypatch), pipeline.placement.on_device(pipeline.vae):
        assert [tensor.stride() for tensor in tensors_of(pipeline.vae)] == strides
    assert [tensor.stride() for tensor in tensors_of(pipeline.vae)] == strides


# Loading.


def test_a_model_that_waits_is_loaded_without_its_device() -> None:
    """A device that holds no numbers stands for one that has no room."""
    pipeline = load("stream", "meta")
    tensors = tensors_of(*modules_of(pipeline).values())
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert pipeline.placement.plan is MemoryPlan.STREAM
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


@pytest.mark.parametrize(
    ("memory", "free", "num_tries", "reason"),
    [
        ("stream", 2**28, 0, "It was asked for."),
        ("auto", 2**28, 0, "The GPU has 0.2 GiB free, and 93 frames need, with 1 GiB to spare: "),
        ("auto", 2**36, 1, "Loading the model ran out of the GPU's memory: 0.50 GiB more were "),
    ],
)
def test_a_model_too_large_for_the_gpu_is_loaded_into_host_memory(
    full_gpu: list[int],
    monkeypatch: pytest.MonkeyPatch,
    memory: MemoryChoice,
    free: int,
    num_tries: int,
    reason: str,
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (free, 2**36))
    pipeline = load(memory, "cuda")
    assert len(full_gpu) == num_tries
    assert pipeline.placement.plan is MemoryPlan.STREAM
    assert pipeline.placement.reason.startswith(reason)
    assert not pipeline.placement.can_fall
    tensors = tensors_of(*modules_of(pipeline).values())
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert pipeline.transformer.dtype == torch.bfloat16


def test_a_model_that_is_to_be_resident_and_does_not_fit_is_refused(full_gpu: list[int]) -> None:
    with pytest.raises(OutOfMemory) as refusal:
        load("resident", "cuda")
    assert len(full_gpu) == 1
    assert str(refusal.value) == (
        "The GPU has too little memory for the model: 0.50 GiB more were needed, and 0.25 of "
        "16.00 GiB were free. Let the model wait in host memory: start with --memory auto."
    )


@pytest.mark.gpu
def test_on_a_gpu_every_plan_makes_the_same_bytes(pixels: Pixels, tmp_path: Path) -> None:
    made = []
    plans: list[MemoryChoice] = ["resident", "offload", "stream"]
    for memory in plans:
        pipeline, out = load(memory, "cuda"), tmp_path / f"{memory}.mp4"
        pipeline.generate(SPEC, [pixels], out, Listener().watcher)
        made.append(out.read_bytes())
        devices = {
            name: {tensor.device.type for tensor in tensors_of(module)}
            for name, module in modules_of(pipeline).items()
        }
        assert devices["language model"] == {"cuda" if memory == "resident" else "cpu"}
        assert devices["vae"] == {"cpu" if memory == "stream" else "cuda"}
    assert made[0] == made[1] == made[2]
