"""The libraries that round: which they are, and the one that is refused."""

import pytest
import torch
from stand_ins import stand_in

from pipeline import libraries
from pipeline.libraries import CudnnTooOld, check_cudnn, loaded_cudnn, versions
from pipeline.load import load_pipeline
from weights.store import WeightStore

GPU = torch.device("cuda")
WHEELS = "/venv/site-packages/nvidia/cudnn/lib/libcudnn.so.9"
MAPS = f"""\
7f00-7f01 r--p 00000000 08:01 1 /venv/site-packages/torch/lib/libtorch_cuda.so
7f02-7f03 r--p 00000000 08:01 2 /venv/site-packages/nvidia/cudnn/lib/libcudnn_cnn.so.9
7f04-7f05 r--p 00000000 08:01 3 {WHEELS}
7f06-7f07 rw-p 00000000 00:00 0 [heap]
"""


def test_the_versions_of_what_is_there_are_told() -> None:
    found = versions()
    assert found["torch"] == torch.__version__
    assert {"diffusers", "triton"} <= found.keys()
    assert None not in found.values()


@pytest.mark.parametrize(
    ("maps", "file"),
    [
        (MAPS, WHEELS),
        (MAPS.replace(WHEELS, "/usr/lib/libcudnn.so.9.10.2"), "/usr/lib/libcudnn.so.9.10.2"),
        ("", None),
    ],
)
def test_the_file_of_cudnn_is_found_among_those_that_are_loaded(
    maps: str, file: str | None
) -> None:
    assert loaded_cudnn(maps) == file


@pytest.mark.parametrize("version", [90100, 91002, 91400])
def test_an_old_cudnn_is_refused_by_its_file_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(libraries, "cudnn_versions", lambda: (91900, version))
    monkeypatch.setattr(libraries, "loaded_cudnn", lambda maps: WHEELS)
    heard: list[str] = []
    with pytest.raises(CudnnTooOld, match=f"^cuDNN 9.* \\({WHEELS}\\) is older than 9.15.0"):
        load_pipeline(
            WeightStore(stand_in()), "cuda", report=lambda text, _fraction: heard.append(text)
        )
    assert heard == []


@pytest.mark.parametrize(
    ("device", "dtype", "version"),
    [
        (GPU, torch.bfloat16, 91500),
        (GPU, torch.bfloat16, 92200),
        (GPU, torch.bfloat16, None),
        (GPU, torch.float32, 91002),
        (torch.device("cpu"), torch.bfloat16, 91002),
    ],
)
def test_what_convolves_rightly_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    dtype: torch.dtype,
    version: int | None,
) -> None:
    monkeypatch.setattr(libraries, "cudnn_versions", lambda: (91900, version))
    check_cudnn(device, dtype)
