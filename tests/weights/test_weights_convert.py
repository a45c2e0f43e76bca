"""`weights convert`: NVIDIA's own file becomes a transformer that computes what the file's does."""

import io
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from hub_stand_in import files_in
from modules import load_transformer
from nvidia_network import Network, write_original
from stand_ins import stand_in
from torch import Tensor

from weights.checkpoint_profile import read_profile
from weights.convert import read_original, write_transformer
from weights.errors import CheckpointMismatch, ConversionFailed
from weights.header import read_header
from weights.listing import Listing, list_file
from weights.store import WeightStore

STEM = "diffusion_pytorch_model.safetensors"
TENSORS = f"transformer/{STEM}"

PUBLISHED_CONFIG = {
    "in_channels": 17,
    "out_channels": 16,
    "num_attention_heads": 16,
    "attention_head_dim": 128,
    "num_layers": 28,
    "mlp_ratio": 4.0,
    "text_embed_dim": 1024,
    "adaln_lora_dim": 256,
    "patch_size": [1, 2, 2],
    "rope_scale": [1.0, 3.0, 3.0],
    "crossattn_proj_in_channels": 100352,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its record, as `weights pull` leaves it."""
    root = tmp_path_factory.mktemp("base")
    for path, data in files_in(stand_in(weights="oracle")).items():
        if path != "cosmos_serve.json":
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_bytes(data)
    files = tuple(list_file(root, path) for path in files_in(root))
    Listing(repository="nvidia/some", commit="abc", files=files).save(root)
    return root


@pytest.fixture(scope="module")
def config(base: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((base / "transformer" / "config.json").read_text())
    return values


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> tuple[Path, Network]:
    path = tmp_path_factory.mktemp("original") / "some_ema_bf16.pt"
    return path, write_original(path, config, torch.bfloat16)


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout, and the last line of stderr."""
    code, out, err = call(capsys, "weights", "convert", *map(str, arguments))
    return code, out, err.splitlines()[-1]


@torch.inference_mode()
def test_what_is_converted_computes_as_the_original_does(
    capsys: pytest.CaptureFixture[str],
    base: Path,
    original: tuple[Path, Network],
    tmp_path: Path,
) -> None:
    path, theirs = original
    made = tmp_path / "made"

    code, out, err = run(capsys, path, made, "--from", base)

    assert code == 0, err
    assert "The transformer was converted from some_ema_bf16.pt\n" in out
    before, after = files_in(base), files_in(made)
    changed = {name for name, data in after.items() if before.get(name) != data}
    assert changed == {TENSORS, "cosmos_serve.json", "checksums.json"}
    assert before.keys() | {"cosmos_serve.json"} == after.keys()
    assert read_profile(made).sampler == "unipc"
    assert call(capsys, "weights", "verify", str(made))[0] == 0

    ours = load_transformer(WeightStore(made), torch.float64)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(16, 3, 8, 12, generator=generator).double()
    given = torch.tensor([1.0, 0.0, 0.0]).double()
    times = torch.tensor([1e-4, 0.7, 0.7]).double()
    width = ours.config.crossattn_proj_in_channels
    text = torch.randn(20, width, generator=generator).double()
    expected = theirs(latents, given, times, text)
    rotary = ours.rotary_tables(*latents.shape[1:])
    shared = ours.forward_shared(latents[None], given[None], times[None], rotary)
    keys_values = ours.text_keys_values(ours.project_text(text))
    velocity = ours.forward_branch(shared, keys_values)[0]
    assert float((velocity - expected).norm() / expected.norm()) < 1e-9


def test_a_distilled_one_says_so(
    capsys: pytest.CaptureFixture[str],
    base: Path,
    original: tuple[Path, Network],
    tmp_path: Path,
) -> None:
    code, _, _ = run(capsys, original[0], tmp_path / "made", "--from", base, "--distilled")

    assert code == 0
    assert json.loads((tmp_path / "made" / "cosmos_serve.json").read_text()) == {
        "sampler": "trigflow"
    }


def test_the_names_and_shapes_are_those_of_the_published_layout(
    base: Path, original: tuple[Path, Network]
) -> None:
    tensors = read_original(original[0], base / "transformer" / "config.json")

    published = read_header(base / TENSORS)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        name: info.shape for name, info in published.items()
    }


def test_the_published_network_has_the_names_and_shapes_that_are_looked_for(
    tmp_path: Path,
) -> None:
    """Tensors of torch's device "meta" have a shape and no numbers."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    with torch.device("meta"):
        network = Network(PUBLISHED_CONFIG)
    state = {f"net.{name}": value for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "published.pt")

    tensors = read_original(tmp_path / "published.pt", tmp_path / "config.json")

    # What diffusers' transformer of that configuration has.
    assert sum(tensor.numel() for tensor in tensors.values()) == 2_059_174_912


def save(path: Path, change: Callable[[dict[str, Any]], object], original: Path) -> None:
    with torch.serialization.safe_globals([io.BytesIO]):
        state = torch.load(original, weights_only=True)
    change(state)
    torch.save(state, path)


class Program:
    """What a pickle may hold: here a call that would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


QUERY = "net.blocks.1.self_attn.q_proj.weight"


def rename(state: dict[str, Any]) -> None:
    state["net_ema.other"] = state.pop(QUERY)


def strip(state: dict[str, Any]) -> None:
    for name in list(state):
        state[name.removeprefix("net.")] = state.pop(name)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another name": (rename, rf"Missing: {QUERY}\. Unexpected: net_ema\.other\.$"),
    "names of another model": (strip, r"Missing: (net\.[^,]+, ){4}net\.\S+ and \d+ more\. Unexp"),
    "another shape": (
        lambda state: state.update({QUERY: torch.zeros(3, 4)}),
        r"Of the wrong shape: net\.blocks\.1\.self_attn\.q_proj\.weight \(is \[3, 4\], want \[64, ",
    ),
    "whole numbers": (
        lambda state: state.update({QUERY: state[QUERY].int()}),
        r"Not of floating point: net\.blocks\.1\.self_attn\.q_proj\.weight \(torch\.int32\)\.$",
    ),
    "no tensor": (
        lambda state: state.update({QUERY: [1, 2]}),
        r"Not of floating point: net\.blocks\.1\.self_attn\.q_proj\.weight \(list\)\.$",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_other_tensors_than_the_configuration_s_are_named(
    base: Path,
    original: tuple[Path, Network],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    save(tmp_path / "other.pt", change, original[0])

    with pytest.raises(ConversionFailed, match=message):
        read_original(tmp_path / "other.pt", base / "transformer" / "config.json")


def cut(path: Path, original: Path) -> None:
    path.write_bytes(original.read_bytes()[:-1000])


FILES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a pointer of Git LFS": (
        lambda path, _: path.write_text("version https://git-lfs.github.com/spec/v1"),
        "is not a file that torch.save has written",
    ),
    "a pickle": (
        lambda path, _: path.write_bytes(pickle.dumps({QUERY: 1})),
        "is not a file that torch.save has written",
    ),
    "cut short": (cut, "is damaged: torch cannot read it"),
    "a list": (lambda path, _: torch.save([torch.zeros(2)], path), "holds a list, not a dict"),
    "a program": (
        lambda path, _: torch.save({QUERY: Program(path.with_name("touched"))}, path),
        "holds something else than tensors",
    ),
}


@pytest.mark.parametrize(("write", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_such_checkpoint_is_refused_before_anything_is_copied(
    capsys: pytest.CaptureFixture[str],
    base: Path,
    original: tuple[Path, Network],
    tmp_path: Path,
    write: Callable[[Path, Path], object],
    message: str,
) -> None:
    write(tmp_path / "file.pt", original[0])

    code, _, err = run(capsys, tmp_path / "file.pt", tmp_path / "made", "--from", base)

    assert (code, message in err) == (1, True), err
    assert {path.name for path in tmp_path.iterdir()} == {"file.pt"}


def test_what_is_in_the_way_is_said(
    capsys: pytest.CaptureFixture[str],
    base: Path,
    original: tuple[Path, Network],
    tmp_path: Path,
) -> None:
    path, _ = original
    code, _, err = run(capsys, path, base, "--from", base)
    assert (code, err) == (1, f"cosmos-serve: {base} has a transformer already. Name a new folder.")

    code, _, err = run(capsys, tmp_path / "gone.pt", tmp_path / "made", "--from", base)
    assert (code, err) == (
        1,
        f"cosmos-serve: {tmp_path / 'gone.pt'}: No such file or directory.",
    )

    code, _, err = run(capsys, path, tmp_path / "made", "--from", tmp_path)
    assert code == 1
    assert err.startswith(f"cosmos-serve: There is no {tmp_path}/checksums.json, which `cosmos-")

    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointMismatch, match="does not describe a transformer of Cosmos-Pred"):
        read_original(path, tmp_path / "config.json")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """Here because two names have one tensor, which safetensors does not write."""
    tensor = torch.zeros(4)

    with pytest.raises(ConversionFailed, match="cannot be written: Some tensors share"):
        write_transformer({"one": tensor, "other": tensor}, tmp_path / STEM)

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_damaged_later_is_converted_again(
    capsys: pytest.CaptureFixture[str],
    base: Path,
    original: tuple[Path, Network],
    tmp_path: Path,
) -> None:
    made = tmp_path / "made"
    run(capsys, original[0], made, "--from", base)
    with (made / TENSORS).open("r+b") as file:
        file.seek(-1, io.SEEK_END)
        file.write(b"?")

    code, out, err = call(capsys, "weights", "verify", str(made))

    assert (code, out) == (1, f"{TENSORS} has other bytes than the listed ones\n")
    assert err.endswith(f"Remove {made}, and convert some_ema_bf16.pt again.\n")
    code, _, err = call(capsys, "weights", "pull", str(made), "--from", str(base))
    assert (code, f"{made} holds another checkpoint" in err) == (1, True)


def memory() -> dict[str, int]:
    """Bytes of this process's memory, by the names that Linux has."""
    text = Path("/proc/self/status").read_text()
    return {name: int(kib) * 1024 for name, kib in re.findall(r"(\w+):\s+(\d+) kB", text)}


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """What is mapped counts as resident once, and is no memory of the process's own."""
    size = 64 * 2**20
    narrow = {"num_layers": 0, "num_attention_heads": 1, "crossattn_proj_in_channels": size // 2048}
    config = PUBLISHED_CONFIG | narrow
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = Network(config).bfloat16()
    state: dict[str, Tensor] = {f"net.{k}": v for k, v in network.state_dict().items()}
    torch.save(state, tmp_path / "large.pt")
    del network, state
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    before = memory()

    tensors = read_original(tmp_path / "large.pt", tmp_path / "config.json")
    write_transformer(tensors, tmp_path / STEM)

    after = memory()
    assert (tmp_path / STEM).stat().st_size > size
    assert after["VmHWM"] - before["VmRSS"] < 1.6 * size
    assert after["RssAnon"] - before["RssAnon"] < 0.2 * size
