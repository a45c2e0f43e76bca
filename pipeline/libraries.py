"""The libraries that the last bits of a video depend on: their versions, and the one refused."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError

_LEAST_CUDNN = 91500
"""Of 9.8 to 9.14, convolutions of video in bfloat16 are wrong and say nothing; earlier ones torch
cannot use for them, and what it does instead takes seventeen times the memory."""

_CUDNN_FILE = re.compile(r"(/\S*/libcudnn\.so[.\d]*)$", re.MULTILINE)


class CudnnTooOld(PipelineError):
    """The cuDNN that was loaded cannot be trusted with this model."""

    code = "cudnn_too_old"


def versions() -> dict[str, str]:
    """The version of each library that rounds; one that is not there is left out."""
    _, cudnn = cudnn_versions()
    found = {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else _dotted(cudnn),
        **{name: _package(name) for name in ("triton", "fa3-fwd", "diffusers", "transformers")},
    }
    return {name: text for name, text in found.items() if text is not None}


def cudnn_versions() -> tuple[int | None, int | None]:
    """The version of cuDNN that torch was built with, and the one that it loaded; 9.15.1 is 91501.

    None where there is none.
    """
    cudnn: Any = torch.backends.cudnn  # untyped
    if not cudnn.is_available():
        return None, None
    module = getattr(torch._C, "_cudnn", None)
    built = module.getCompileVersion() if module is not None else None
    if isinstance(built, tuple):
        major, minor, patch = built
        built = major * 10_000 + minor * 100 + patch
    return built, cudnn.version()


def check_cudnn(device: torch.device, dtype: torch.dtype) -> None:
    """See that convolutions of this dtype are right on the device.

    Raises:
        CudnnTooOld: they are not; the message names the file that is to go.
    """
    problem = cudnn_problem()
    if problem is not None and device.type == "cuda" and dtype == torch.bfloat16:
        raise CudnnTooOld(
            f"{problem}: take it out of LD_LIBRARY_PATH, or install a torch that brings a later "
            "one."
        )


def cudnn_problem() -> str | None:
    """What is wrong with the cuDNN that was loaded and where it lies; None if nothing is."""
    _, found = cudnn_versions()
    if found is None or found >= _LEAST_CUDNN:
        return None
    file = loaded_cudnn(Path("/proc/self/maps").read_text())
    return (
        f"cuDNN {_dotted(found)} ({file or 'of a file that cannot be told'}) is older than "
        f"{_dotted(_LEAST_CUDNN)}, and makes wrong or very large convolutions in bfloat16"
    )


def loaded_cudnn(maps: str) -> str | None:
    """The file of cuDNN that a process has loaded, by the text of its /proc/PID/maps."""
    found = _CUDNN_FILE.search(maps)
    return None if found is None else found[1]


def _dotted(number: int) -> str:
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
