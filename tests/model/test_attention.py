"""The attention backends are one function, and the choice among them is honest."""

from typing import Any

import pytest
import torch
from stand_ins import stand_in
from torch import Tensor

from pipeline.load import load_pipeline
from pipeline.memory_plan import MemoryPlan
from pipeline.network import attention
from pipeline.network.attention import (
    BACKENDS,
    AttentionUnavailable,
    Choice,
    Trial,
    attend_native,
    choose_attention,
)
from weights.store import WeightStore

CPU = torch.device("cpu")


def _inputs(tokens: int = 300, keys: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, length, 2, 32, generator=generator) for length in (tokens, keys, keys)
    )
    return 2 * query, 2 * key, value


def test_attention_is_the_formula() -> None:
    query, key, value = _inputs()
    wide = [tensor.double().transpose(1, 2) for tensor in (query, key, value)]
    logits = wide[0] @ wide[1].transpose(2, 3) / 32**0.5
    exact = (logits.softmax(-1) @ wide[2]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend_native(query, key, value), exact.float())


def test_slices_of_a_packed_tensor_are_taken_as_they_lie() -> None:
    packed = torch.randn(1, 64, 3, 2, 32)
    query, key, value = packed.unbind(2)
    assert not query.is_contiguous()
    expected = attend_native(query.contiguous(), key.contiguous(), value.contiguous())
    torch.testing.assert_close(attend_native(query, key, value), expected)


def test_the_error_check_passes_the_right_result_and_sees_a_wrong_one() -> None:
    inputs = _inputs(tokens=400, keys=400)
    right = attend_native(*inputs)
    assert attention._error(right, inputs) < 1e-6
    query, key, value = inputs
    assert attention._error(attend_native(query * 1.05, key, value), inputs) > 1e-2
    assert attention._error(right.roll(1, dims=1), inputs) > 1e-2


def test_a_cpu_has_torchs_own_attention() -> None:
    choice = choose_attention(CPU, torch.float32, tokens=64, heads=2, head_dim=32)
    assert (choice.name, choice.attend, choice.warnings) == ("native", attend_native, ())


@pytest.mark.parametrize("name", ["cudnn", "flash", "fa3"])
def test_a_gpus_backend_is_refused_on_a_cpu(name: str) -> None:
    with pytest.raises(AttentionUnavailable, match="needs a GPU"):
        choose_attention(CPU, torch.float32, tokens=64, heads=2, head_dim=32, name=name)


def test_an_unknown_backend_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(AttentionUnavailable, match="no attention backend 'fa9': say auto, fa3"):
        choose_attention(CPU, torch.float32, tokens=64, heads=2, head_dim=32, name="fa9")


def test_a_backend_that_fails_or_errs_is_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        raise RuntimeError("No available kernel.\nAborting execution.")

    def wrong(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend_native(query, key, value.roll(1, dims=1))

    monkeypatch.setitem(BACKENDS, "flash", failing)
    monkeypatch.setitem(BACKENDS, "cudnn", wrong)
    monkeypatch.setattr(attention, "_timed", lambda attend, inputs: 0.001)
    inputs = _inputs(tokens=400, keys=400)
    assert attention._try("flash", inputs) == Trial(
        "flash", refusal="does not run here (No available kernel.)"
    )
    assert attention._try("cudnn", inputs).refusal == "too far from float32"
    assert attention._try("native", inputs).refusal is None


def test_flash_attention_3_names_the_package_it_needs() -> None:
    trial = attention._try("fa3", _inputs())
    assert trial.refusal is not None and "fa3-fwd is not installed" in trial.refusal


def test_a_shadowed_cudnn_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "cudnn_versions", lambda: (91900, 90100))
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    refused = Trial("cudnn", refusal="does not run here (no kernel)")
    cuda = torch.device("cuda")
    warnings = attention._warnings(cuda, torch.bfloat16, [refused])
    assert "cuDNN's attention is not used" in warnings[0]
    assert "built with cuDNN 91900 and found 90100" in warnings[1]
    monkeypatch.setattr(attention, "cudnn_versions", lambda: (91900, 91900))
    assert attention._warnings(cuda, torch.bfloat16, [Trial("cudnn", 0.1, 1e-3)]) == []
    # It has no kernel for float32, and nobody can do anything about that.
    assert attention._warnings(cuda, torch.float32, [refused]) == []


@pytest.mark.parametrize(
    ("capability", "refusal"),
    [
        ((8, 0), "it is for GPUs of capability 9.0, not 8.0"),
        ((10, 0), "it is for GPUs of capability 9.0, not 10.0"),
        ((12, 0), "it is for GPUs of capability 9.0, not 12.0"),
        # It would be imported, if it were there.
        ((9, 0), "No module named 'fa3_fwd_interface'"),
    ],
)
def test_flash_attention_3_is_not_even_imported_on_other_gpus(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], refusal: str
) -> None:
    monkeypatch.setattr(attention, "find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert attention._try("fa3", _inputs()).refusal == f"does not run here ({refusal})"


@pytest.mark.parametrize(
    ("milliseconds", "preferred"),
    [
        ({"fa3": 100, "cudnn": 100, "native": 100}, "fa3"),
        ({"fa3": 100, "cudnn": 96, "native": 98}, "fa3"),
        ({"fa3": 100, "cudnn": 94, "native": 98}, "cudnn"),
        # Between the two that are faster a small gain does not decide, either.
        ({"fa3": 100, "cudnn": 94, "native": 93}, "cudnn"),
        ({"cudnn": 100, "native": 97, "flash": 50}, "flash"),
    ],
)
def test_a_small_gain_does_not_change_the_backend(
    milliseconds: dict[str, float], preferred: str
) -> None:
    trials = [Trial(name, seconds / 1000, 1e-3) for name, seconds in milliseconds.items()]
    assert attention._preferred(trials).name == preferred


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A GPU of capability 9.0 without fa3-fwd, whose backends take these seconds."""
    seconds = {"cudnn": 0.1, "native": 0.1, "flash": 0.1}
    names = {id(BACKENDS[name]): name for name in seconds}
    inputs = _inputs(tokens=300, keys=300)
    monkeypatch.setattr(attention, "_random_inputs", lambda *_: inputs)
    monkeypatch.setattr(attention, "_timed", lambda attend, _: seconds[names[id(attend)]])
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    for name in seconds:
        monkeypatch.setitem(BACKENDS, name, lambda *inputs, _name=name: attend_native(*inputs))
        names[id(BACKENDS[name])] = name
    return seconds


def _choose_on_gpu(*_: object, **shape: Any) -> Choice:
    return choose_attention(torch.device("cuda"), torch.float32, **shape)


def test_the_backends_are_tried_in_the_order_of_preference(gpu: dict[str, float]) -> None:
    shape = {"tokens": 300, "heads": 2, "head_dim": 32}
    choice = _choose_on_gpu(**shape)
    assert [trial.name for trial in choice.trials] == ["fa3", "cudnn", "native", "flash"]
    assert choice.name == "cudnn"
    gpu["native"] = 0.05
    assert _choose_on_gpu(**shape).name == "native"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB."),
        RuntimeError("aoti_torch_aten_new_empty(self.get(), &ret0) API call failed at ops.h"),
    ],
)
def test_a_trial_without_memory_leads_to_a_plan_that_needs_less(
    gpu: dict[str, float], monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    failures = [error]

    def full_once(*inputs: Tensor) -> Tensor:
        if failures:
            raise failures.pop()
        return attend_native(*inputs)

    monkeypatch.setitem(BACKENDS, "cudnn", full_once)
    monkeypatch.setattr(attention, "_timed", lambda *_: 0.1)
    monkeypatch.setattr("pipeline.load.choose_attention", _choose_on_gpu)
    pipeline = load_pipeline(WeightStore(stand_in()), "cpu")
    assert pipeline.placement.plan is MemoryPlan.STREAM
    assert pipeline.attention.name == "cudnn"
