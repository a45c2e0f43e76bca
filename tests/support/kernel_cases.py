"""A program: runs every fused kernel by Triton's interpreter, and prints how far it is off.

To be started with TRITON_INTERPRET=1. Prints a JSON object: for each case the relative L2 distance
of the fused and the plain form to float64, and what was written outside of a slice.
"""

import json
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.network.kernels.heads import norm_heads_fused_, norm_heads_plain_
from pipeline.network.kernels.residual import add_gated_modulate_fused, add_gated_modulate_plain
from pipeline.network.layers import rotary_tables

GENERATOR = torch.Generator().manual_seed(0)
CPU = torch.device("cpu")
Cases = dict[str, dict[str, float]]


def random(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> Tensor:
    return torch.randn(shape, generator=GENERATOR).to(device, dtype)


def distance(value: Tensor, exact: Tensor) -> float:
    return float((value.double() - exact).norm() / exact.norm())


def residual_case(
    width: int,
    hidden_dtype: torch.dtype,
    update_dtype: torch.dtype,
    dtype: torch.dtype,
    device: torch.device,
) -> Cases:
    """Two cases, the sum and its modulated copy; a width that is no power of two has idle lanes."""
    batch, frames, tokens = 2, 3, 5
    hidden = random(batch, frames, tokens, width, dtype=hidden_dtype, device=device) * 3 + 1
    update = random(batch, frames * tokens, width, dtype=update_dtype, device=device)
    gate, shift, scale = (random(batch, frames, 1, width, device=device) for _ in range(3))
    exact = add_gated_modulate_plain(
        hidden.double(), gate.double(), update, shift.double(), scale.double(), torch.float64
    )
    arguments = (hidden, gate, update, shift, scale, dtype)
    fused, plain = add_gated_modulate_fused(*arguments), add_gated_modulate_plain(*arguments)
    # The copy is of the sum as it was rounded, so that is what it is measured against.
    rounded = add_gated_modulate_plain(
        fused.hidden.double(),
        torch.zeros_like(gate).double(),
        update,
        shift.double(),
        scale.double(),
        torch.float64,
    )
    name = f"width {width}, {hidden_dtype} + {update_dtype}"
    return {
        f"sum, {name} -> {hidden_dtype}": {
            "fused": distance(fused.hidden, exact.hidden),
            "plain": distance(plain.hidden, exact.hidden),
        },
        f"modulated, {name} -> {dtype}": {
            "fused": distance(fused.normed, rounded.normed),
            "plain": distance(plain.normed, rounded.normed),
        },
    }


def heads_case(
    num_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device, *, is_turned: bool
) -> Cases:
    """Queries that are a slice of packed queries, keys and values."""
    grid = (2, 2, 3)
    packed = random(2, 12, 3, num_heads, head_dim, dtype=dtype, device=device)
    norm = nn.RMSNorm(head_dim, eps=1e-6)
    norm.weight = nn.Parameter(1 + 0.1 * random(head_dim, device=device), requires_grad=False)
    angles = rotary_tables(
        grid,
        head_dim=head_dim,
        scale=(1.0, 3.0, 3.0),
        exponent_dtype=torch.bfloat16,
        device=device,
        dtype=torch.float32,
    )
    exact_norm = nn.RMSNorm(head_dim, eps=1e-6, dtype=torch.float64)
    exact_norm.weight = nn.Parameter(norm.weight.double(), requires_grad=False)
    exact = norm_heads_plain_(
        packed[:, :, 1].double(),
        exact_norm,
        (angles.cos.double(), angles.sin.double()) if is_turned else None,
    )

    def apply(form: Callable[..., Tensor]) -> tuple[Tensor, float]:
        copy = packed.clone()
        result = form(copy[:, :, 1], norm, tuple(angles) if is_turned else None)
        others = copy[:, :, [0, 2]] - packed[:, :, [0, 2]]
        return result, float(others.abs().max())

    (fused, outside), (plain, _) = apply(norm_heads_fused_), apply(norm_heads_plain_)
    turned = "turned" if is_turned else "not turned"
    return {
        f"heads {num_heads}x{head_dim}, {turned}, -> {dtype}": {
            "fused": distance(fused, exact),
            "plain": distance(plain, exact),
            "outside": outside,
        }
    }


def all_cases(
    device: torch.device, widths: tuple[int, ...], heads: tuple[tuple[int, int], ...]
) -> Cases:
    """Every kernel at these widths, and these numbers and widths of heads."""
    wide, narrow = torch.float32, torch.bfloat16
    cases: Cases = {}
    for width in widths:
        cases |= residual_case(width, wide, narrow, narrow, device)
        cases |= residual_case(width, wide, wide, wide, device)
        cases |= residual_case(width, narrow, narrow, narrow, device)
    for num_heads, head_dim in heads:
        for dtype in (wide, narrow):
            cases |= heads_case(num_heads, head_dim, dtype, device, is_turned=True)
            cases |= heads_case(num_heads, head_dim, dtype, device, is_turned=False)
    return cases


if __name__ == "__main__":
    with torch.inference_mode():
        print(json.dumps(all_cases(CPU, widths=(64, 96), heads=((2, 32), (3, 24)))))
