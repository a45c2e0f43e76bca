"""What a GPU reaches under load: matrix products, a copy, and attention."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.full_size import Scale
from benchmarks.timing import Case, timed_warm
from pipeline.network.attention import Attend


def ceilings(
    scale: Scale, device: torch.device, dtype: torch.dtype, attend: Attend
) -> Iterator[Case]:
    """A large matrix product, those of a block, a copy, and self-attention at the real shape."""
    measure = partial(timed_warm, device=device, seconds=scale.ceiling_s)
    width, tokens, size = scale.config.width, scale.tokens, scale.matrix
    shapes = {
        f"square {size}": (size, size, size),
        "queries, keys, values": (tokens, width, 3 * width),
        "square of the width": (tokens, width, width),
        "feed-forward in": (tokens, width, 4 * width),
        "feed-forward out": (tokens, 4 * width, width),
    }
    for name, (rows, inner, columns) in shapes.items():
        left = torch.randn(rows, inner, device=device, dtype=dtype)
        right = torch.randn(columns, inner, device=device, dtype=dtype)
        time = measure(lambda a=left, b=right: a @ b.T)  # type: ignore[misc]  # defaults bind the loop's values
        yield name, {**time, "tflops": 2e-12 * rows * inner * columns / time["median_s"]}
    source = torch.randn(tokens, width, device=device)
    time = measure(source.clone)
    yield "copy", {**time, "gb_s": 2e-9 * source.nbytes / time["median_s"]}
    config = scale.config
    shape = (1, tokens, 3, config.num_attention_heads, config.attention_head_dim)
    packed = torch.randn(shape, device=device, dtype=dtype)
    time = measure(lambda: attend(*packed.unbind(2)))
    yield "attention", {**time, "tflops": 4e-12 * tokens**2 * width / time["median_s"]}
