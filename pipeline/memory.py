"""The memory that a pipeline's modules wait in, and what happens when memory runs out.

A module that waits in host memory is copied to the device for its stage, and the copy is dropped
afterwards: weights do not change, so nothing is copied back, and the bits are those of the host's.
"""

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.errors import OutOfMemory
from pipeline.layer_stream import LayerStream, pin
from pipeline.memory_plan import MemoryPlan

HOST = torch.device("cpu")

_BYTES = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NEEDED = re.compile(r"[Tt]ried to allocate (\d+(?:\.\d+)?) (bytes|KiB|MiB|GiB)")
_HOST_ALLOCATOR = "DefaultCPUAllocator"
_DEVICE_IS_FULL = re.compile(
    r"CUDA\b.*out of memory"
    r"|CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_(\w+_)?ALLOC(ATION)?_FAILED"
    # An extension on torch's stable ABI is told only which call failed.
    r"|(empty|zeros|full)\w*\W.* API call failed"
)
"""What libraries say that have no error of their own for it."""

Result = TypeVar("Result")


class Placement:
    """Follows one pipeline's memory plan, which can change to the one that takes the least.

    On a CPU, whose memory is the host's, all plans are the same.

    Args:
        device: the device that computes.
        text_model: has its blocks in `layers`, and may have its embedding in `embed_tokens`.
        others: the other modules of the pipeline.
        plan: by which all of them are placed.
        lent_with_text: further modules, which wait in host memory where the text model does.
        reason: why this plan, in a sentence.
        may_fall: whether the plan may be given up for one that takes less.
        taking_turns: those of `others` of which one at a time is on the device. They wait in host
            memory, and the one that was used last stays on the device until another is used.
    """

    def __init__(
        self,
        device: torch.device,
        text_model: nn.Module,
        others: Sequence[nn.Module],
        plan: MemoryPlan,
        *,
        lent_with_text: Sequence[nn.Module] = (),
        reason: str = "It was asked for.",
        may_fall: bool,
        taking_turns: Sequence[nn.Module] = (),
    ) -> None:
        self.device = device
        self.reason = reason
        self._text_model = text_model
        self._others = (*others, *lent_with_text)
        self._lent_with_text = tuple(lent_with_text)
        self._plan = plan
        self._may_fall = may_fall
        self._stream: LayerStream | None = None
        self._turns = _Turns(taking_turns, device) if taking_turns else None
        self.warning: str | None = None
        if plan is not MemoryPlan.RESIDENT:
            self._make_stream()
        self._pin(taking_turns)

    @property
    def plan(self) -> MemoryPlan:
        """The plan that is followed now."""
        return self._plan

    @property
    def can_fall(self) -> bool:
        """Whether there is a plan that takes less of the device, and it may be followed."""
        return self._may_fall and self._plan is not MemoryPlan.STREAM

    @contextmanager
    def on_device(self, *modules: nn.Module) -> Iterator[None]:
        """Have these modules on the device for as long as the context lasts."""
        with ExitStack() as stage:
            for module in modules:
                if module is self._text_model and self._stream is not None:
                    stage.enter_context(self._streamed(self._stream))
                elif self._plan is MemoryPlan.STREAM or (
                    module in self._lent_with_text and self._plan is MemoryPlan.OFFLOAD
                ):
                    stage.enter_context(_copied_to_device(module, self.device))
                elif self._turns is not None:
                    stage.enter_context(self._turns.on_device(module))
            yield

    def fall(self) -> None:
        """Move every module to host memory, and take the least of the device from now on."""
        self._plan = MemoryPlan.STREAM
        if self._turns is not None:
            self._turns.leave()
            self._turns = None
        for module in (self._text_model, *self._others):
            module.to(HOST)
        if self._stream is None:
            self._make_stream()

    def _make_stream(self) -> None:
        layers = list(self._text_model.get_submodule("layers").children())
        self._pin(layers)
        self._stream = LayerStream(layers, self.device)

    def _pin(self, modules: Sequence[nn.Module]) -> None:
        """Have modules wait in pinned memory; where that cannot be, say so in `warning`."""
        if modules and self.device.type == "cuda":
            refusal = pin([tensor for module in modules for tensor in _tensors(module)])
            if refusal is not None:
                self.warning = (
                    f"{refusal} So weights are copied to the GPU from memory that is not pinned, "
                    "which takes longer."
                )

    @contextmanager
    def _streamed(self, stream: LayerStream) -> Iterator[None]:
        """Have the text model run on the device, with its embedding looked up in host memory."""
        with ExitStack() as stage:
            for name, child in self._text_model.named_children():
                if name == "embed_tokens":
                    hook = child.register_forward_hook(
                        lambda _module, _inputs, embedded: embedded.to(self.device)
                    )
                    stage.callback(hook.remove)
                elif name != "layers":
                    stage.enter_context(_copied_to_device(child, self.device))
            stage.enter_context(stream.running())
            yield


class _Turns:
    """Modules in host memory, of which one at a time has a copy on the device."""

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self._modules = tuple(modules)
        self._device = device
        self._copies = ExitStack()
        self._there: nn.Module | None = None

    @contextmanager
    def on_device(self, module: nn.Module) -> Iterator[None]:
        """Have one of the modules, or a part of one, on the device within the context.

        The module itself stays there afterwards, and the part does not. Any other module is where
        it is.
        """
        owner = next((each for each in self._modules if _is_part(module, each)), None)
        with ExitStack() as stage:
            if owner is module:
                self._enter(module)
            elif owner is not None and owner is not self._there:
                stage.enter_context(_copied_to_device(module, self._device))
            yield

    def leave(self) -> None:
        """Drop the copy that is on the device."""
        self._copies.close()
        self._there = None

    def _enter(self, module: nn.Module) -> None:
        if module is not self._there:
            self.leave()
            self._copies.enter_context(_copied_to_device(module, self._device))
            self._there = module


def _is_part(module: nn.Module, whole: nn.Module) -> bool:
    return any(module is each for each in whole.modules())


@contextmanager
def _copied_to_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    tensors = _tensors(module)
    kept = [tensor.data for tensor in tensors]
    try:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = copied(data, device)
        yield
    finally:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = data


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, laid out as it is; itself, if it is there."""
    return tensor.to(device)


def is_device_full(error: BaseException) -> bool:
    """Whether a device had too little memory: by its own error, or by what a library says."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _DEVICE_IS_FULL.search(str(error)) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryShortage:
    """Memory that could not be had, in bytes; `free` and `total` are known of a GPU only."""

    is_on_device: bool
    needed: int | None = None
    free: int | None = None
    total: int | None = None

    @classmethod
    def from_error(cls, error: Exception, device: torch.device) -> "MemoryShortage | None":
        """What was lacking when this error was raised, just now; None if it was something else."""
        is_on_device = is_device_full(error)
        # The allocator of a CPU has no error of its own.
        is_on_host = isinstance(error, MemoryError) or _HOST_ALLOCATOR in str(error)
        if not (is_on_device or is_on_host):
            return None
        free = total = None
        if is_on_device and device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
        found = _NEEDED.search(str(error))
        needed = int(float(found[1]) * _BYTES[found[2]]) if found else None
        return cls(is_on_device=is_on_device, needed=needed, free=free, total=total)

    def __str__(self) -> str:
        """`1.50 GiB more were needed, and 0.61 of 23.69 GiB were free`, as far as it is known."""
        needed = f"{_gib(self.needed)} GiB more were" if self.needed is not None else "more was"
        if self.free is None or self.total is None:
            return f"{needed} needed"
        return f"{needed} needed, and {_gib(self.free)} of {_gib(self.total)} GiB were free"


class RanOutOfMemory(OutOfMemory):
    """Work ran out of memory, and what it had made is freed.

    The message is for the caller who asked for a video of `num_frames` frames, or, without them,
    for the model.
    """

    def __init__(
        self, shortage: MemoryShortage, plan: MemoryPlan, num_frames: int | None = None
    ) -> None:
        where = "The GPU" if shortage.is_on_device else "The machine"
        wanted = "the model" if num_frames is None else f"{num_frames} frames"
        ways = [] if num_frames is None else ["Ask for fewer frames"]
        though = ""
        if not shortage.is_on_device:
            ways.append("use a machine with more memory")
        elif plan is not MemoryPlan.STREAM:
            ways.append("let the model wait in host memory: start with --memory auto")
        else:
            though = ", though the model waits in host memory"
            ways.append("use a GPU with more memory, or one that nothing else uses")
        advice = ", or ".join(ways)
        super().__init__(
            f"{where} has too little memory for {wanted}{though}: {shortage}. "
            f"{advice[0].upper()}{advice[1:]}."
        )
        self.shortage = shortage


def run_or_free(
    work: Callable[[], Result],
    device: torch.device,
    plan: MemoryPlan,
    num_frames: int | None = None,
) -> Result:
    """What `work` returns.

    Raises:
        RanOutOfMemory: there was too little memory. Nothing is held of what `work` had made, so
            that it can be tried again.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        shortage = MemoryShortage.from_error(error, device)
        if shortage is None:
            raise
    # By now the error is freed, and with its traceback the frames that held tensors.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise RanOutOfMemory(shortage, plan, num_frames)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
