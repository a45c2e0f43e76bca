"""Which checkpoints can be served together."""

import json
import shutil
from pathlib import Path

import pytest
from stand_ins import stand_in

from weights.checkpoints import digest_of, folders_in, open_checkpoints
from weights.errors import CheckpointIncomplete, CheckpointMismatch
from weights.store import WeightStore


def copied(tmp_path: Path, **profile: object) -> Path:
    """A distilled sibling of the stand-in, to be written to."""
    copy = tmp_path / "copy"
    shutil.copytree(stand_in(sampler="trigflow"), copy)
    path = copy / "cosmos_serve.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **profile}))
    return copy


def test_folders_are_separated_by_commas() -> None:
    assert folders_in("a, b/c ,") == (Path("a"), Path("b/c"))
    with pytest.raises(CheckpointIncomplete, match="names no folder"):
        open_checkpoints(" , ")


def test_a_checkpoint_and_its_distilled_sibling_are_served_together() -> None:
    base, sibling = stand_in(), stand_in(sampler="trigflow")
    stores = open_checkpoints(f"{base},{sibling}")
    assert [store.root for store in stores] == [base, sibling]
    assert [store.profile.sampler for store in stores] == ["unipc", "trigflow"]
    digests = {digest_of(stores), *(digest_of([store]) for store in stores)}
    assert len(digests) == 3
    assert digest_of(stores[:1]) == WeightStore(base).digest


def test_two_that_are_sampled_alike_are_refused(tmp_path: Path) -> None:
    copy = copied(tmp_path, sampler="unipc")
    with pytest.raises(CheckpointMismatch, match="are both sampled by unipc"):
        open_checkpoints(f"{stand_in()},{copy}")


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match="different sizes or lengths"):
        open_checkpoints(f"{stand_in()},{copied(tmp_path, max_frames=9)}")


@pytest.mark.parametrize("component", ["text_encoder", "tokenizer", "vae"])
def test_another_text_model_or_vae_is_refused(tmp_path: Path, component: str) -> None:
    copy = copied(tmp_path)
    names = {"tokenizer": "tokenizer_config.json"}
    config = copy / component / names.get(component, "config.json")
    config.write_text(config.read_text() + "\n")
    with pytest.raises(CheckpointMismatch, match="the same text model, tokenizer and VAE"):
        open_checkpoints(f"{stand_in()},{copy}")
