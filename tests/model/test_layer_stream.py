"""Layers that come to the device while the one before runs: what waits for what, and from where."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import layer_stream
from pipeline.layer_stream import LayerStream, pin, spare_host_bytes

GPU = torch.device("cuda")
GIB = 2**30


def layers_of(count: int) -> list[nn.Module]:
    """Each adds its number to what it reads."""
    made: list[nn.Module] = []
    for number in range(count):
        layer = nn.Linear(1, 1)
        layer.weight.data.fill_(1)
        layer.bias.data.fill_(number)
        made.append(layer.requires_grad_(False))
    return made


class FakeStream:
    """Stands for a `torch.cuda.Stream`: writes down what is queued."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name, self._log = name, log

    def wait_event(self, event: "FakeEvent") -> None:
        if event.says is not None:
            self._log.append(f"{self._name} waits until {event.says}")

    def wait_stream(self, other: "FakeStream") -> None:
        self._log.append(f"{self._name} waits for {other._name}")


class FakeEvent:
    """Stands for a `torch.cuda.Event`; one that was never recorded holds nothing up."""

    says: str | None = None

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def record(self, _stream: FakeStream) -> None:
        self.says = self._log[-1]


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a GPU would be given to do, in order, on a machine that has none."""
    log: list[str] = []
    compute = FakeStream("compute", log)

    @contextmanager
    def stream(_stream: Any) -> Iterator[None]:
        yield

    empty_like = torch.empty_like
    monkeypatch.setattr("torch.cuda.Stream", lambda _device: FakeStream("copying", log))
    monkeypatch.setattr("torch.cuda.Event", lambda: FakeEvent(log))
    monkeypatch.setattr("torch.cuda.current_stream", lambda _device: compute)
    monkeypatch.setattr("torch.cuda.stream", stream)
    monkeypatch.setattr("torch.empty_like", lambda tensor, device: empty_like(tensor))
    return log


def test_a_copy_waits_for_its_place_and_a_layer_for_its_copy(
    queued: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = layers_of(4)
    biases = [layer.get_parameter("bias").data_ptr() for layer in layers]

    def copy_to(place: Tensor, waiting: Tensor) -> None:
        place.copy_(waiting)
        if waiting.data_ptr() in biases:
            queued.append(f"{biases.index(waiting.data_ptr())} is copied")

    monkeypatch.setattr(layer_stream, "copy_to", copy_to)
    value = torch.zeros(1, 1)
    with LayerStream(layers, GPU).running():
        for number, layer in enumerate(layers):
            # Before the stream's own hook, which says that the layer has run.
            layer.register_forward_hook(
                lambda *_, number=number: queued.append(f"{number} has run"), prepend=True
            )
            value = layer(value)
    assert value.item() == 0 + 1 + 2 + 3
    assert queued == [
        "copying waits for compute",
        "0 is copied",
        "compute waits until 0 is copied",
        "1 is copied",
        "0 has run",
        "compute waits until 1 is copied",
        "copying waits until 0 has run",
        "2 is copied",
        "1 has run",
        "compute waits until 2 is copied",
        "copying waits until 1 has run",
        "3 is copied",
        "2 has run",
        "compute waits until 3 is copied",
        "3 has run",
        "compute waits for copying",
    ]


def test_layers_run_again_and_lie_where_they_lay() -> None:
    layers = layers_of(3)
    before = [parameter.data_ptr() for layer in layers for parameter in layer.parameters()]
    stream = LayerStream(layers, torch.device("cpu"))
    for _ in range(2):
        with stream.running():
            for _ in range(2):
                value = torch.zeros(1, 1)
                for layer in layers:
                    value = layer(value)
                assert value.item() == 3
    with pytest.raises(ZeroDivisionError), stream.running():
        layers[0].register_forward_hook(lambda *_: 1 / 0)
        layers[0](value)
    assert [p.data_ptr() for layer in layers for p in layer.parameters()] == before
    assert all(not layer._forward_pre_hooks for layer in layers)


# Pinned memory.


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that were pinned, in bytes, on a machine where nothing can be."""
    blocks: list[int] = []
    empty: Callable[..., Tensor] = torch.empty

    def pinning(*arguments: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        made = empty(*arguments, **options)
        if pin_memory:
            blocks.append(made.nbytes)
        return made

    monkeypatch.setattr("torch.empty", pinning)
    monkeypatch.setattr(layer_stream, "spare_host_bytes", lambda: 64 * GIB)
    return blocks


def test_what_is_pinned_is_the_same_and_shares_large_blocks(
    pinned: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_stream, "_BLOCK_BYTES", 4096)
    sizes = [1000, 3, 500, 7, 900, 2]
    dtypes = [torch.float32, torch.bfloat16]
    tensors = [torch.randn(n).to(dtypes[i % 2]) for i, n in enumerate(sizes)]
    kept = [tensor.clone() for tensor in tensors]
    assert pin(tensors) is None
    assert all(torch.equal(a, b) for a, b in zip(tensors, kept, strict=True))
    assert [tensor.dtype for tensor in tensors] == [tensor.dtype for tensor in kept]
    # The largest tensor fills its block; the last block holds 256 bytes of the smallest one.
    assert pinned == [4096, 2560, 4096]
    addresses = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    assert len(addresses) == len(pinned)


@pytest.mark.parametrize("spare", [7.9 * GIB, 0])
def test_a_machine_with_little_memory_keeps_it(
    pinned: list[int], monkeypatch: pytest.MonkeyPatch, spare: float
) -> None:
    monkeypatch.setattr(layer_stream, "spare_host_bytes", lambda: int(spare))
    assert pin([torch.zeros(8)]) == f"Only {spare / GIB:.1f} GiB of host memory are free."
    assert pinned == []


def test_memory_that_cannot_be_pinned_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("CUDA error: out of memory\nCompile with …")

    monkeypatch.setattr(layer_stream, "spare_host_bytes", lambda: 64 * GIB)
    tensor = torch.ones(8)
    monkeypatch.setattr("torch.empty", refused)
    assert pin([tensor]) == "Host memory cannot be pinned: CUDA error: out of memory"
    assert tensor.sum() == 8


@pytest.mark.parametrize(
    ("files", "spare"),
    [
        ({}, 20 * GIB),
        ({"memory.max": "max\n", "memory.stat": "anon 1\n"}, 20 * GIB),
        ({"memory.max": f"{16 * GIB}\n", "memory.stat": f"file 9\nanon {6 * GIB}\n"}, 10 * GIB),
        ({"memory.max": f"{64 * GIB}\n", "memory.stat": f"anon {6 * GIB}\n"}, 20 * GIB),
    ],
)
def test_what_may_be_taken_is_the_machines_or_the_containers(
    tmp_path: Path, files: dict[str, str], spare: int
) -> None:
    machine = tmp_path / "meminfo"
    machine.write_text(f"MemTotal: 9 kB\nMemAvailable: {20 * GIB // 1024} kB\n")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert spare_host_bytes(machine, tmp_path) == spare
