"""What a video takes of a GPU, counted tensor by tensor at full size, and what is made of it."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from benchmarks import memory_counts
from benchmarks.full_size import FULL
from benchmarks.live_bytes import LiveBytes
from benchmarks.memory_counts import CONFIG, META, decode_peak, denoise_peak, streams_kept
from pipeline import memory_need
from pipeline.memory_need import SPARE, MemoryNeed
from pipeline.memory_plan import MemoryPlan
from pipeline.network import layers

GIB = 2**30
FRAMES = 93
CUDA_ITSELF = int(0.7 * GIB)


@pytest.fixture(scope="module")
def counted() -> MemoryNeed:
    """At the published size, 93 frames."""
    return memory_counts.counted_need(FRAMES)


@pytest.fixture(scope="module")
def computed(counted: MemoryNeed) -> MemoryNeed:
    """The same by the formulas that a start goes by."""
    return replace(
        counted,
        text_stage=memory_need.text_bytes(CONFIG.crossattn_proj_in_channels, 2),
        denoise_stage=memory_need.denoise_bytes(
            CONFIG, FULL.latent_frames, FULL.width, FULL.height, torch.bfloat16
        ),
        encode_stage=memory_need.encode_bytes(96, FULL.width, FULL.height, 2),
        decode_stage=memory_need.decode_bytes(96, FULL.width, FULL.height, 2),
    )


def test_a_resident_model_stays_below_its_bounds(counted: MemoryNeed) -> None:
    weights = counted.text_model + counted.transformer + counted.vae
    assert weights == pytest.approx(17.6 * GIB, rel=0.005)
    assert weights + counted.denoise_stage <= 21.3 * GIB
    assert weights + counted.decode_stage <= 23.2 * GIB
    assert weights + counted.encode_stage <= 23.3 * GIB


def test_each_saving_is_seen_by_the_count(
    counted: MemoryNeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, vae = memory_counts.transformer(), memory_counts.vae()
    with streams_kept():
        assert denoise_peak(network, FRAMES) > counted.denoise_stage + GIB
    monkeypatch.setattr(layers, "WIDENED_BYTES", 2**60)
    assert denoise_peak(network, FRAMES) > counted.denoise_stage + GIB
    assert decode_peak(vae, is_ours=False) > counted.decode_stage + 2 * GIB


@pytest.mark.parametrize(
    ("card_gib", "plan", "limit_gib"),
    [(32, "resident", 24), (24, "offload", 11), (12, "offload", 11), (10, "stream", 8)],
)
def test_every_card_has_a_plan_that_fits(
    counted: MemoryNeed, computed: MemoryNeed, card_gib: int, plan: str, limit_gib: int
) -> None:
    # A card is sold by a little more than its driver hands out.
    free = int(card_gib * 0.98 * GIB) - CUDA_ITSELF
    chosen = computed.choose(free)
    assert chosen == plan
    assert counted.under(chosen) <= limit_gib * GIB
    assert computed.under(chosen) + SPARE <= free


def test_too_little_for_any_plan_is_the_last_plan(counted: MemoryNeed) -> None:
    assert counted.choose(GIB) is MemoryPlan.STREAM


def test_what_is_chosen_by_is_what_was_counted(counted: MemoryNeed, computed: MemoryNeed) -> None:
    """The formulas give no less than the count, and no more than 6 % above."""
    sizes = asdict(counted)
    ratios = {name: size / sizes[name] for name, size in asdict(computed).items() if sizes[name]}
    assert {name: r for name, r in ratios.items() if not 1.0 <= r <= 1.06} == {}


# What counts.


def test_shared_memory_counts_once_and_what_is_dropped_counts_no_more() -> None:
    before = torch.empty(100, device=META)
    with LiveBytes(META) as bytes_:
        bytes_.know(before)
        first = torch.empty(1000, device=META)
        views = [first[:10], first.view(10, 100), before[:5]]
        assert bytes_.live == 4000
        second = first + 1
        assert bytes_.live == 8000
        del first, views
        assert bytes_.live == 4000
        del second
        assert (bytes_.live, bytes_.peak) == (0, 8000)


def test_what_an_operation_is_made_of_counts() -> None:
    norm = nn.functional.normalize
    with LiveBytes(META) as bytes_:
        norm(torch.empty(8, 1000, device=META), dim=0)
    # The numbers, their lengths made as wide as they are, and the result.
    assert bytes_.peak >= 2 * 32_000
