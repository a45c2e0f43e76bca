"""Running out of memory: the model is offloaded once, everything is freed, the rest is said."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from fake_device import modules_of, two_memories
from stand_ins import stand_in
from test_generate import Listener, pixels
from test_offload import SPEC
from torch import nn

from pipeline.errors import Cancelled, OutOfMemory
from pipeline.generate import VideoPipeline
from pipeline.load import load_pipeline
from pipeline.memory import MemoryShortage, RanOutOfMemory, run_or_free
from pipeline.memory_need import Placing
from pipeline.memory_plan import MemoryChoice, MemoryPlan
from pipeline.progress import Progress, Restarted, Stage, StageStarted, StepDone
from pipeline.spec import Pixels
from weights.store import WeightStore

__all__ = ["pixels"]

CPU = torch.device("cpu")
GPU = torch.device("cuda")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total …")
STAGES = [Stage.TEXT, Stage.IMAGE, Stage.DENOISE, Stage.DECODE]


def load(memory: MemoryChoice = "auto") -> VideoPipeline:
    return load_pipeline(WeightStore(stand_in()), "cpu", memory=memory)


class RunsOut:
    """Memory that runs out deep in a stage's network, `times` times, at the second call."""

    def __init__(self, times: int, error: Exception = FULL) -> None:
        self.left = times
        self._error = error
        self._calls = 0

    def within(self, pipeline: VideoPipeline, stage: Stage) -> None:
        network = {
            Stage.TEXT: modules_of(pipeline)["language model"].layers[-1].mlp,  # type: ignore[index, union-attr]  # a ModuleList
            Stage.IMAGE: pipeline.vae.encoder.conv_out,
            Stage.DENOISE: pipeline.transformer.transformer_blocks[-1].ff,
            Stage.DECODE: pipeline.vae.decoder.conv_out,
        }[stage]
        # The picture is encoded by one call.
        self._calls = 1 if stage is Stage.IMAGE else 0
        assert isinstance(network, nn.Module)
        network.register_forward_pre_hook(self)

    def __call__(self, *_: object) -> None:
        self._calls += 1
        if self.left > 0 and self._calls >= 2:
            self.left -= 1
            raise type(self._error)(*self._error.args)


@pytest.fixture(scope="module")
def expected(pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("expected") / "out.mp4"
    load().generate(SPEC, [pixels], out, Listener().watcher)
    return out.read_bytes()


def restarts(listener: Listener) -> list[str]:
    return [p.message for p in listener.heard if isinstance(p, Restarted)]


def kept_prompts(pipeline: VideoPipeline) -> int:
    """How many of the prompts are kept, encoded, for the next video."""
    return sum(pipeline.text._keeps(prompt) for prompt in (SPEC.prompt, SPEC.negative_prompt))


@pytest.mark.parametrize("stage", STAGES)
def test_a_shortage_of_memory_offloads_the_model_and_runs_again(
    pixels: Pixels,
    expected: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage,
) -> None:
    held: list[int] = []

    def look(progress: Progress) -> bool:
        if isinstance(progress, Restarted):
            held.append(memories.held - kept_prompts(pipeline))
        return False

    pipeline, listener, out = load(), Listener(look), tmp_path / "out.mp4"
    RunsOut(1).within(pipeline, stage)
    with two_memories(pipeline, monkeypatch) as memories:
        pipeline.generate(SPEC, [pixels], out, listener.watcher)
        assert memories.lent == 0
    assert out.read_bytes() == expected
    assert held == [0], "something of the first try was there when the second began"
    assert restarts(listener) == [
        "The GPU ran out of memory (1.50 GiB more were needed), so from now on the model waits in "
        "host memory, and the video is begun again."
    ]
    (again,) = [i for i, p in enumerate(listener.heard) if isinstance(p, Restarted)]
    stages = [p.stage for p in listener.heard[again:] if isinstance(p, StageStarted)]
    assert stages == [*STAGES, Stage.ENCODE]


@pytest.mark.parametrize("plan", [MemoryPlan.RESIDENT, MemoryPlan.OFFLOAD])
def test_what_worked_is_remembered(
    pixels: Pixels,
    expected: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plan: MemoryPlan,
) -> None:
    monkeypatch.setattr("pipeline.load.choose_placing", lambda *_, **__: Placing(plan, ""))
    pipeline, out = load(), tmp_path / "out.mp4"
    assert pipeline.placement.plan is plan
    RunsOut(1).within(pipeline, Stage.IMAGE)
    num_restarts = []
    for _ in range(2):
        listener = Listener()
        pipeline.generate(SPEC, [pixels], out, listener.watcher)
        num_restarts.append(len(restarts(listener)))
    assert num_restarts == [1, 0]
    assert pipeline.placement.plan is MemoryPlan.STREAM
    assert out.read_bytes() == expected


@pytest.mark.parametrize("stage", [Stage.IMAGE, Stage.DECODE])
def test_a_second_shortage_fails_with_the_reason_and_frees_everything(
    pixels: Pixels,
    expected: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Stage,
) -> None:
    pipeline, listener, out = load(), Listener(), tmp_path / "out.mp4"
    RunsOut(2).within(pipeline, stage)
    with two_memories(pipeline, monkeypatch) as memories:
        with pytest.raises(OutOfMemory) as failure:
            pipeline.generate(SPEC, [pixels], out, listener.watcher)
        assert memories.held == kept_prompts(pipeline)
        assert memories.lent == 0
        assert list(tmp_path.iterdir()) == []
        assert len(restarts(listener)) == 1

        pipeline.generate(SPEC, [pixels], out, Listener().watcher)
        assert out.read_bytes() == expected
    assert str(failure.value) == (
        "The GPU has too little memory for 9 frames, though the model waits in host memory: "
        "1.50 GiB more were needed. Ask for fewer frames, or use a GPU with more memory, or one "
        "that nothing else uses."
    )
    assert failure.value.__cause__ is failure.value.__context__ is None


def test_a_model_that_is_to_stay_resident_does(
    pixels: Pixels, expected: bytes, tmp_path: Path
) -> None:
    pipeline, listener, out = load("resident"), Listener(), tmp_path / "out.mp4"
    RunsOut(1).within(pipeline, Stage.DENOISE)
    with pytest.raises(OutOfMemory, match="start with --memory auto"):
        pipeline.generate(SPEC, [pixels], out, listener.watcher)
    assert restarts(listener) == []
    pipeline.generate(SPEC, [pixels], out, listener.watcher)
    assert out.read_bytes() == expected
    assert pipeline.placement.plan is MemoryPlan.RESIDENT


NO_ROOM = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 bytes.")
ILLEGAL = RuntimeError("CUDA error: an illegal memory access")


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (NO_ROOM, OutOfMemory, "^The machine has too little memory for 9 frames: "),
        (MemoryError(), OutOfMemory, "^The machine has too little memory for 9 frames: "),
        (ILLEGAL, RuntimeError, "illegal memory access"),
    ],
)
def test_what_is_no_shortage_of_the_device_does_not_offload_the_model(
    pixels: Pixels, tmp_path: Path, error: Exception, raised: type[Exception], message: str
) -> None:
    pipeline, listener = load(), Listener()
    RunsOut(1, error).within(pipeline, Stage.DENOISE)
    with pytest.raises(raised, match=message):
        pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", listener.watcher)
    assert restarts(listener) == []
    assert pipeline.placement.plan is MemoryPlan.RESIDENT


def test_a_host_without_room_for_the_model_is_said_and_not_tried_again(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_device: torch.device) -> None:
        raise NO_ROOM

    pipeline, listener = load(), Listener()
    RunsOut(1).within(pipeline, Stage.DENOISE)
    monkeypatch.setattr(pipeline.vae, "to", no_room)
    with pytest.raises(OutOfMemory, match=r"^The machine has too little memory"):
        pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", listener.watcher)
    assert restarts(listener) == []


def test_a_cancel_is_heard_before_the_model_is_moved(pixels: Pixels, tmp_path: Path) -> None:
    pipeline, listener = load(), Listener()
    RunsOut(1).within(pipeline, Stage.IMAGE)
    pipeline.vae.encoder.conv_in.register_forward_pre_hook(
        lambda *_: setattr(listener, "stopping", True)
    )
    with pytest.raises(Cancelled):
        pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", listener.watcher)
    assert restarts(listener) == []
    assert pipeline.placement.plan is MemoryPlan.RESIDENT


@pytest.mark.parametrize("moment", [Restarted, StageStarted, StepDone])
def test_a_cancel_is_heard_in_the_second_try(
    pixels: Pixels, tmp_path: Path, moment: type[Progress]
) -> None:
    def reached(progress: Progress) -> bool:
        return isinstance(progress, moment) and len(restarts(listener)) == 1

    pipeline, listener = load(), Listener(reached)
    RunsOut(1).within(pipeline, Stage.DENOISE)
    with pytest.raises(Cancelled):
        pipeline.generate(SPEC, [pixels], tmp_path / "out.mp4", listener.watcher)
    assert isinstance(listener.heard[-1], moment), "work went on after the cancel"
    assert list(tmp_path.iterdir()) == []


# What is said.


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (FULL, 3 * 2**29),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), 20 * 2**20),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512 bytes."), 512),
        (torch.OutOfMemoryError("CUDA out of memory."), None),
    ],
)
def test_a_shortage_says_what_was_needed_and_what_was_free(
    monkeypatch: pytest.MonkeyPatch, error: Exception, needed: int | None
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2**29, 2**34))
    shortage = MemoryShortage.from_error(error, GPU)
    assert shortage == MemoryShortage(is_on_device=True, needed=needed, free=2**29, total=2**34)


@pytest.mark.parametrize(
    ("message", "is_full"),
    [
        ("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("CUDA error: out of memory", True),
        ("Triton Error [CUDA]: out of memory", True),
        ("CUDA out of memory. Tried to allocate 2 MiB. (originally from torch_call…)", True),
        ("aoti_torch_aten_new_empty(self.get(), size.data(), &ret0) API call failed at ops", True),
        ('torch_call_dispatcher("aten::new_zeros", "", stack.data()) API call failed at ops', True),
        ("aoti_torch_get_device_type(self.get(), &device_type) API call failed at ops", False),
        ("CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", False),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_a_full_device_is_known_by_the_words_of_libraries_too(message: str, is_full: bool) -> None:
    shortage = MemoryShortage.from_error(RuntimeError(message), CPU)
    assert (shortage is not None and shortage.is_on_device) is is_full


def test_the_cpu_allocators_own_words_are_known() -> None:
    def work() -> torch.Tensor:
        return torch.empty(10**15)

    with pytest.raises(RanOutOfMemory) as failure:
        run_or_free(work, CPU, MemoryPlan.RESIDENT)
    assert failure.value.shortage == MemoryShortage(is_on_device=False, needed=4 * 10**15)


def test_even_what_holds_itself_is_freed() -> None:
    class Circle:
        def __init__(self) -> None:
            self.tensor, self.myself = torch.empty(8), self

    made: list[weakref.ref[Circle]] = []

    def work() -> None:
        circle = Circle()
        made.append(weakref.ref(circle))
        raise torch.OutOfMemoryError(*FULL.args)

    gc.disable()
    try:
        with pytest.raises(RanOutOfMemory):
            run_or_free(work, CPU, MemoryPlan.RESIDENT)
        assert made[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("shortage", "plan", "num_frames", "sentence"),
    [
        (
            MemoryShortage(is_on_device=True, needed=3 * 2**29, free=2**29, total=2**34),
            MemoryPlan.RESIDENT,
            93,
            "The GPU has too little memory for 93 frames: 1.50 GiB more were needed, and 0.50 of "
            "16.00 GiB were free. Ask for fewer frames, or let the model wait in host memory: "
            "start with --memory auto.",
        ),
        (
            MemoryShortage(is_on_device=True, free=2**29, total=2**34),
            MemoryPlan.STREAM,
            None,
            "The GPU has too little memory for the model, though the model waits in host memory: "
            "more was needed, and 0.50 of 16.00 GiB were free. Use a GPU with more memory, or one "
            "that nothing else uses.",
        ),
        (
            MemoryShortage(is_on_device=False, needed=2**30),
            MemoryPlan.RESIDENT,
            None,
            "The machine has too little memory for the model: 1.00 GiB more were needed. Use a "
            "machine with more memory.",
        ),
    ],
)
def test_the_sentence_says_what_was_needed_and_what_to_do(
    shortage: MemoryShortage, plan: MemoryPlan, num_frames: int | None, sentence: str
) -> None:
    assert str(RanOutOfMemory(shortage, plan, num_frames)) == sentence
