"""A fault in the network or in the order of things shows as a wrong move of the picture.

Each fault is put into the pipeline, whose picture goes where the prompt says without it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from paths import ROOT
from stand_ins import stand_in
from torch import Tensor

from benchmarks.motion import grey, path
from benchmarks.stand_in import Case, make
from pipeline.generate import VideoPipeline
from pipeline.image import prepare
from pipeline.load import load_pipeline
from pipeline.network.layers import RotaryTables
from pipeline.network.transformer import Evaluate, SharedState
from weights.store import WeightStore

PHOTOGRAPH = ROOT / "benchmarks" / "photographs" / "chelsea.png"
CASE = Case("", PHOTOGRAPH, "The camera pans right.", steps=4)
WANTED = [(0, 0), (8, 0), (16, 0)]
"""Where the picture is in the frames 0, 4 and 8."""


@pytest.fixture(scope="module")
def pipeline() -> VideoPipeline:
    return load_pipeline(WeightStore(stand_in(width=160, height=96, weights="moving")), "cpu")


def off_px(pipeline: VideoPipeline) -> int:
    """By how many pixels the picture strays from where it is to go, at most."""
    pixels = prepare(PHOTOGRAPH.read_bytes(), *CASE.size)
    places = path([grey(frame) for frame in make(pipeline, CASE, pixels, CASE.seed)])
    return int(np.abs(np.subtract(places, WANTED)).max())


def swap_rows_and_columns(patch: pytest.MonkeyPatch, pipeline: VideoPipeline) -> None:
    """The rotary angles of rows and columns stand in each other's place."""
    true_tables = pipeline.transformer.rotary_tables

    def tables(*grid: int) -> RotaryTables:
        # Of the 16 angles six are of frames, five of rows and five of columns.
        order = [*range(6), *range(11, 16), *range(6, 11)]
        return RotaryTables(*(table[..., order] for table in true_tables(*grid)))

    patch.setattr(pipeline.transformer, "rotary_tables", tables)


def turn_time_back(patch: pytest.MonkeyPatch, pipeline: VideoPipeline) -> None:
    """The angles of frames turn the other way."""
    true_tables = pipeline.transformer.rotary_tables

    def tables(*grid: int) -> RotaryTables:
        cos, sin = true_tables(*grid)
        return RotaryTables(cos, torch.cat([-sin[..., :6], sin[..., 6:]], dim=-1))

    patch.setattr(pipeline.transformer, "rotary_tables", tables)


def forget_which_frame_is_given(patch: pytest.MonkeyPatch, pipeline: VideoPipeline) -> None:
    true_forward = pipeline.transformer.forward_shared

    def forward(latents: Tensor, given: Tensor, *others: Any) -> SharedState:
        return true_forward(latents, torch.zeros_like(given), *others)

    patch.setattr(pipeline.transformer, "forward_shared", forward)


def drop_a_latent_frame(patch: pytest.MonkeyPatch, pipeline: VideoPipeline) -> None:
    """Latent frame 1 is left out, and the last one comes twice."""
    true_post = pipeline.vae.post_quant_conv.forward

    def forward(latents: Tensor) -> Tensor:
        return true_post(latents[:, :, [0, *range(2, latents.shape[2]), -1]])

    patch.setattr(pipeline.vae.post_quant_conv, "forward", forward)


def mix_up_the_prompts(patch: pytest.MonkeyPatch, pipeline: VideoPipeline) -> None:
    """Guidance leads to the negative prompt and away from the other."""

    true_prepare = pipeline.transformer.prepare

    def mixed_up(size: tuple[int, int, int], prompts: Sequence[Tensor]) -> Evaluate:
        return true_prepare(size, prompts[::-1])

    patch.setattr(pipeline.transformer, "prepare", mixed_up)


FAULTS = (
    swap_rows_and_columns,
    turn_time_back,
    forget_which_frame_is_given,
    drop_a_latent_frame,
    mix_up_the_prompts,
)


def test_without_a_fault_the_picture_goes_where_it_is_to_go(pipeline: VideoPipeline) -> None:
    assert off_px(pipeline) <= 1


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_shows_as_a_wrong_move(
    pipeline: VideoPipeline,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch, VideoPipeline], None],
) -> None:
    fault(monkeypatch, pipeline)
    assert off_px(pipeline) > 2
