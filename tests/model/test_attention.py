"""The attention backends are one function, and the choice among them is honest."""

import pytest
import torch
from torch import Tensor

from pipeline.network import attention
from pipeline.network.attention import (
    BACKENDS,
    AttentionUnavailable,
    Trial,
    attend_native,
    choose_attention,
)

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
    with pytest.raises(AttentionUnavailable, match="no attention backend 'fa9': say auto, native"):
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
    warnings = attention._warnings(torch.device("cuda"), [refused])
    assert "cuDNN's attention is not used" in warnings[0]
    assert "built with cuDNN 91900 and found 90100" in warnings[1]
    monkeypatch.setattr(attention, "cudnn_versions", lambda: (91900, 91900))
    assert attention._warnings(torch.device("cuda"), [Trial("cudnn", 0.1, 1e-3)]) == []
