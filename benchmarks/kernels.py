"""The fused kernels compiled for GPUs that need not be there: registers, spills, access widths.

    python -m benchmarks.kernels [--out FILE]

They are compiled for the shapes and dtypes of the published network, as a worker on such a GPU
would. Spilled registers, or loads and stores of less than 128 bits, would cost bandwidth, which is
all that these kernels use. cuobjdump, which Triton brings, reads the machine code.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.machine import describe
from pipeline.network.kernels import causal_triton, heads_triton, residual_triton
from pipeline.network.kernels.causal import PROGRAM_ELEMENTS

TARGETS = {"sm_90": 90, "sm_80": 80}
_THREADS_OF_A_WARP = 32
_DIVISIBLE_BY = 16
"""What Triton finds of every pointer and number of the network's shapes, and compiles for."""

_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_ACCESS = re.compile(r"\b(LDG|STG)\.E\S*")
_WIDTH = re.compile(r"\.(8|16|32|64|128)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel as it is called: the types of its arguments, and its constants."""

    function: Any
    types: Mapping[str, str]
    constants: Mapping[str, int]
    num_warps: int


def _residual(hidden: str, update: str, normed: str) -> Kernel:
    types = {"hidden_ptr": hidden, "update_ptr": update}
    types |= dict.fromkeys(("gate_ptr", "shift_ptr", "scale_ptr"), "*fp32")
    types |= {"total_ptr": hidden, "normed_ptr": normed}
    types |= {"frame_tokens": "i32", "width": "i32", "eps": "fp32"}
    return Kernel(
        function=residual_triton.add_gated_modulate_kernel,
        types=types,
        constants={"BLOCK": 2048},
        num_warps=residual_triton.NUM_WARPS,
    )


def _heads(*, is_turned: bool) -> Kernel:
    types = {"heads_ptr": "*bf16"} | dict.fromkeys(("weight_ptr", "cos_ptr", "sin_ptr"), "*fp32")
    numbers = ("tokens", "stride_batch", "stride_token", "stride_head", "num_heads", "half")
    return Kernel(
        function=heads_triton.norm_heads_kernel,
        types={**types, **dict.fromkeys(numbers, "i32"), "eps": "fp32"},
        constants={"ROTATE": is_turned, "BLOCK_HEADS": 16, "BLOCK_HALF": 64},
        num_warps=heads_triton.NUM_WARPS,
    )


def _causal(channels: int, *, is_normed: bool) -> Kernel:
    block = 1 << (channels - 1).bit_length()
    types = dict.fromkeys(("frames_ptr", "kept_ptr", "padded_ptr", "gamma_ptr"), "*bf16")
    types |= {"factor": "fp32", "eps": "fp32"}
    return Kernel(
        function=causal_triton.causal_input_kernel,
        types={**types, **dict.fromkeys(("num_frames", "height", "width", "channels"), "i32")},
        constants={
            "PADDING": 1,
            "NORM": is_normed,
            "BLOCK_PIXELS": PROGRAM_ELEMENTS // block,
            "BLOCK_CHANNELS": block,
        },
        num_warps=causal_triton.NUM_WARPS,
    )


KERNELS = {
    "residual, float32 + bfloat16 -> bfloat16": _residual("*fp32", "*bf16", "*bf16"),
    "residual, float32 + bfloat16 -> float32": _residual("*fp32", "*bf16", "*fp32"),
    "residual, bfloat16 + bfloat16 -> bfloat16": _residual("*bf16", "*bf16", "*bf16"),
    "heads, turned": _heads(is_turned=True),
    "heads, not turned": _heads(is_turned=False),
    "frames, 96 channels": _causal(96, is_normed=True),
    "frames, 192 channels": _causal(192, is_normed=True),
    "frames, 384 channels": _causal(384, is_normed=True),
    "frames, 384 channels, not normed": _causal(384, is_normed=False),
}


def compiled(kernel: Kernel, capability: int) -> dict[str, Any]:
    """What one kernel is on GPUs of a capability, such as 90.

    `loads` and `stores` count instructions by their width in bits. `spilled_bytes` is a thread's
    memory for what its registers do not hold.
    """
    names = kernel.function.arg_names
    divisible = [
        (index,) for index, name in enumerate(names) if kernel.types.get(name, "fp32") != "fp32"
    ]
    source = ASTSource(
        kernel.function,
        {name: kernel.types.get(name, "constexpr") for name in names},
        kernel.constants,
        {place: [["tt.divisibility", _DIVISIBLE_BY]] for place in divisible},
    )
    target = GPUTarget("cuda", capability, _THREADS_OF_A_WARP)
    options = {"num_warps": kernel.num_warps, "enable_fp_fusion": True}
    made = triton.compile(source, target=target, options=options)
    usage, code = _dump(made.asm["cubin"])
    found = _USAGE.search(usage)
    assert found is not None, usage
    registers, stack, _, local = map(int, found.groups())
    accesses: dict[str, Counter[str]] = {"LDG": Counter(), "STG": Counter()}
    for access in _ACCESS.finditer(code):
        width = _WIDTH.search(access[0])
        accesses[access[1]][width[1] if width else "32"] += 1
    return {
        "registers": registers,
        "spilled_bytes": stack + local,
        "shared_bytes": made.metadata.shared,
        "loads": dict(accesses["LDG"]),
        "stores": dict(accesses["STG"]),
        "barriers": len(re.findall(r"\bBAR\.SYNC", code)),
    }


def _dump(cubin: bytes) -> tuple[str, str]:
    """What cuobjdump says of a kernel's resources, and its machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run(
                [knobs.nvidia.cuobjdump.path, option, file.name],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    return usage, code


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the kernels for GPUs.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name, kernel in KERNELS.items():
        results[name] = {target: compiled(kernel, number) for target, number in TARGETS.items()}
        print(name, json.dumps(results[name]), flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        head = describe(["triton"])
        options.out.write_text(json.dumps({**head, "kernels": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
