"""One video on several devices: what two and four processes compute together is what one does."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from paths import SUPPORT
from rank_cases import LATENT_FRAMES, SIZES
from stand_ins import stand_in

from pipeline.ranks import CannotShare, check_ranks
from weights.store import WeightStore

Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Found]:
    """By number of processes, what rank 0 found."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run(
        [sys.executable, SUPPORT / "rank_cases.py", folder],
        env={**os.environ, "PYTHONPATH": str(SUPPORT), "GLOO_SOCKET_IFNAME": "lo"},
        check=True,
        timeout=200,
    )
    return {size: json.loads((folder / f"{size}.json").read_text()) for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_prompts", [1, 2])
def test_one_evaluation_is_that_of_one_process(
    found: dict[int, Found], size: int, num_prompts: int
) -> None:
    names = [f"evaluation, {number} frames, {num_prompts} prompts" for number in LATENT_FRAMES]
    assert {name: found[size][name] for name in names if not found[size][name] <= 1e-6} == {}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("guided", [True, False])
def test_the_latents_of_35_steps_are_those_of_one_process(
    found: dict[int, Found], size: int, guided: bool
) -> None:
    """After a video that was cancelled, whose last step left nothing behind."""
    assert found[size]["cancelled"]
    assert found[size][f"35 steps, guided {guided}"] <= 5e-6


def test_what_one_video_cannot_be_shared_by_is_named(found: dict[int, Found]) -> None:
    """Two heads are for two processes, and not for four; with guidance there are two for each."""
    assert "refused" not in found[2]
    assert found[4]["refused"] == (
        "Without guidance all devices of a video work on the one prompt, and 4 devices cannot "
        "share 2 attention heads evenly. Ask for a guidance_scale above 1."
    )
    assert found[4]["evaluation after a refusal"] <= 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_a_rank_that_runs_out_of_memory_ends_and_rank_0_knows(
    found: dict[int, Found], size: int
) -> None:
    assert "out of memory" in found[size]
    assert found[size]["exit codes"][-1] == 1


@pytest.mark.parametrize(
    ("num_ranks", "width", "reason"),
    [
        (3, 96, "3 devices cannot work on one video: one half works on the prompt"),
        (8, 96, "8 devices cannot work on one video: 4 devices cannot share 2 attention"),
        (4, 80, "2 devices cannot share 15 tokens of a frame evenly"),
    ],
)
def test_devices_that_cannot_share_a_video_are_refused_before_the_model_is_loaded(
    num_ranks: int, width: int, reason: str
) -> None:
    height = 48 if width == 80 else 64
    store = WeightStore(stand_in(width=width, height=height))
    with pytest.raises(CannotShare, match=reason):
        check_ranks(store, num_ranks)
