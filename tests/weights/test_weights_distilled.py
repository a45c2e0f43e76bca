"""`weights pull --distilled`: NVIDIA's file is fetched, converted, and not left behind."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import call
from hub_stand_in import (
    LISTING,
    Fault,
    StandInHub,
    files_in,
    forget_the_hub,
    listing_at,
    running_hub,
)
from nvidia_network import write_original
from safetensors.torch import load_file
from stand_ins import stand_in

from weights import assemble
from weights.errors import CheckpointIncomplete
from weights.manifest import load_manifest
from weights.store import WeightStore

MANIFEST = load_manifest()
ORIGINAL = MANIFEST.distilled.path
PLACE = (MANIFEST.repository, "e26f8a125a2235c5a00245a65207402dd0cdcb89")
OTHER_LISTING = listing_at(PLACE)
TENSORS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    """The files of the published checkpoint that are needed."""
    not_needed = ("cosmos_serve.json", "text_encoder/generation_config.json")
    return {path: data for path, data in files_in(stand_in()).items() if path not in not_needed}


@pytest.fixture(scope="module")
def original(published: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NVIDIA's file of the distilled transformer."""
    path = tmp_path_factory.mktemp("original") / "distilled.pt"
    write_original(path, json.loads(published["transformer/config.json"]), torch.float32)
    return path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    forget_the_hub(monkeypatch, tmp_path)
    return monkeypatch


@pytest.fixture
def hub(
    published: dict[str, bytes], original: Path, environment: pytest.MonkeyPatch
) -> Iterator[StandInHub]:
    with running_hub(published) as hub:
        hub.others[PLACE] = {
            ORIGINAL: original.read_bytes(),
            "base/pre-trained/other.pt": b"not wanted",
        }
        environment.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "distilled"


def pull(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> str:
    """What is said on stderr by a pull that succeeds."""
    code, out, err = call(capsys, "weights", "pull", str(folder), "--distilled", *options)
    assert code == 0, err
    assert f"The transformer was converted from {ORIGINAL} at {PLACE[1]}\n" in out
    return err


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line of a pull that fails."""
    code, out, err = call(capsys, "weights", "pull", *arguments)
    assert (code, out) == (1, ""), err
    return err.splitlines()[-1].removeprefix("cosmos-serve: ")


def check_is_converted(folder: Path, published: dict[str, bytes], original: Path) -> None:
    """The folder has all that the distilled checkpoint is, and nothing else."""
    files = files_in(folder)
    changed = {path for path, data in files.items() if published.get(path) != data}
    assert changed == {TENSORS, "cosmos_serve.json", "checksums.json"}
    assert files.keys() == published.keys() | changed
    assert {path.name for path in folder.iterdir() if path.is_dir()}.isdisjoint({"base"})
    assert json.loads(files["cosmos_serve.json"]) == {"sampler": "trigflow"}
    made, state = load_file(folder / TENSORS), torch.load(original, weights_only=False)
    name = "blocks.2.cross_attn.output_proj.weight"
    assert torch.equal(made["transformer_blocks.2.attn2.to_out.0.weight"], state[f"net.{name}"])
    WeightStore(folder)


def test_the_original_is_fetched_converted_and_removed(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    published: dict[str, bytes],
    original: Path,
    hub: StandInHub,
    folder: Path,
) -> None:
    hub.token = "hf_secret"
    environment.setenv("HF_TOKEN", hub.token)

    err = pull(capsys, folder)

    check_is_converted(folder, published, original)
    assert f"Converting {ORIGINAL}." in err
    asked = [LISTING, OTHER_LISTING, ORIGINAL, *(published.keys() - {TENSORS})]
    assert sorted(request.what for request in hub.requests) == sorted(asked)
    assert call(capsys, "weights", "verify", str(folder))[0] == 0


def test_what_is_converted_is_not_fetched_again(
    capsys: pytest.CaptureFixture[str],
    published: dict[str, bytes],
    original: Path,
    hub: StandInHub,
    folder: Path,
) -> None:
    pull(capsys, folder)
    hub.requests.clear()
    (folder / "vae" / "config.json").unlink()

    pull(capsys, folder)

    asked = [LISTING, OTHER_LISTING, "vae/config.json"]
    assert sorted(request.what for request in hub.requests) == sorted(asked)

    (folder / TENSORS).write_bytes(b"damaged")
    (folder / "model_index.json").unlink()
    code, out, err = call(capsys, "weights", "verify", str(folder))
    assert (code, len(out.splitlines())) == (1, 2)
    assert err.endswith(f"weights pull {folder} --distilled\n")
    pull(capsys, folder)
    assert hub.asked(ORIGINAL) == [0]
    check_is_converted(folder, published, original)


def test_a_pull_that_ended_in_the_conversion_goes_on_from_there(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    published: dict[str, bytes],
    original: Path,
    hub: StandInHub,
    folder: Path,
) -> None:
    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with environment.context() as patch:
        patch.setattr(assemble, "write_transformer", end)
        assert call(capsys, "weights", "pull", str(folder), "--distilled")[0] == 130
    with pytest.raises(CheckpointIncomplete, match=r"weights pull \S+ --distilled$"):
        WeightStore(folder)
    hub.requests.clear()

    pull(capsys, folder)

    assert [request.what for request in hub.requests] == [LISTING, OTHER_LISTING]
    check_is_converted(folder, published, original)


def test_the_rest_can_be_copied_from_a_checkpoint_at_hand(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    published: dict[str, bytes],
    original: Path,
    hub: StandInHub,
    folder: Path,
    tmp_path: Path,
) -> None:
    """And from one that is distilled, all of it."""
    base = tmp_path / "base"
    assert call(capsys, "weights", "pull", str(base))[0] == 0
    hub.requests.clear()

    pull(capsys, folder, "--from", str(base))

    assert [request.what for request in hub.requests] == [OTHER_LISTING, ORIGINAL]
    check_is_converted(folder, published, original)

    environment.setenv("HF_HUB_OFFLINE", "1")
    pull(capsys, tmp_path / "copy", "--from", str(folder))
    assert files_in(tmp_path / "copy") == files_in(folder)


def test_two_checkpoints_do_not_share_a_folder(
    capsys: pytest.CaptureFixture[str], hub: StandInHub, folder: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    assert call(capsys, "weights", "pull", str(base))[0] == 0
    pull(capsys, folder)
    before = files_in(base), files_in(folder)

    assert fails(capsys, str(base), "--distilled").endswith("to judge by its transformer.")
    assert fails(capsys, str(folder)).endswith("to judge by its cosmos_serve.json.")
    said = fails(capsys, str(base), "--from", str(folder))
    assert said == f"{base} holds another checkpoint, to judge by its transformer."
    assert (files_in(base), files_in(folder)) == before


def test_there_must_be_space_for_both_transformers(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    published: dict[str, bytes],
    original: Path,
    hub: StandInHub,
    folder: Path,
) -> None:
    rest = sum(len(data) for path, data in published.items() if path != TENSORS)
    wanted = rest + 2 * original.stat().st_size + len(assemble.DISTILLED_PROFILE)
    usage = shutil.disk_usage(folder.parent)
    environment.setattr(shutil, "disk_usage", lambda _: usage._replace(free=wanted - 1))

    assert "GiB of free space" in fails(capsys, str(folder), "--distilled")
    assert files_in(folder) == {}

    environment.setattr(shutil, "disk_usage", lambda _: usage._replace(free=wanted))
    pull(capsys, folder)


def test_a_refusal_of_the_original_is_explained(
    capsys: pytest.CaptureFixture[str], hub: StandInHub, folder: Path
) -> None:
    hub.always_fail(OTHER_LISTING, Fault(status=403, error="GatedRepo"))

    assert f"Accept the licence at {MANIFEST.page}" in fails(capsys, str(folder), "--distilled")
    assert not folder.exists()

    del hub.others[PLACE][ORIGINAL]
    hub.fail(OTHER_LISTING)
    assert fails(capsys, str(folder), "--distilled").endswith(f"lacks {ORIGINAL}.")
