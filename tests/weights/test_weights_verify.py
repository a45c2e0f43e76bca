"""`weights verify` reads every byte, and names all that is not as it was recorded."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from checkpoint_files import write_checkpoint, write_json
from command_line import call
from hub_stand_in import files_in

from weights.errors import CheckpointDamaged
from weights.listing import ListedFile, Listing, read_listing

VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkpoint with its record: git's hashes for JSON files, SHA-256 for the others."""
    root = write_checkpoint(tmp_path / "checkpoint")
    files = tuple(
        ListedFile(path=path, size=len(data), hash=hash_of(path, data))
        for path, data in files_in(root).items()
    )
    Listing(repository="nvidia/some", commit="abc", files=files).save(root)
    return root


def hash_of(path: str, data: bytes) -> str:
    if path.endswith(".json"):
        # What `git hash-object` prints.
        return f"git-blob-sha1:{hashlib.sha1(b'blob %d' % len(data) + bytes(1) + data).hexdigest()}"
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def verify(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    """Exit code, the lines on stdout, and the last line on stderr."""
    code, out, err = call(capsys, "weights", "verify", *arguments)
    return code, out.splitlines(), err.splitlines()[-1]


def test_a_checkpoint_that_is_as_it_was_pulled_is_said_to_be(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    code, out, err = verify(capsys, str(root))

    assert (code, len(out)) == (0, 1)
    assert out[0].startswith(f"{root}: 10 files of nvidia/some at abc, ")
    assert out[0].endswith("every byte is right.")
    assert err.startswith("Reading: 100% of ")


def test_all_files_that_are_not_as_listed_are_named(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    with (root / VAE).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    (root / "vae" / "config.json").write_text('{"z_dim": 61}')
    (root / "tokenizer" / "tokenizer.json").unlink()
    os.truncate(root / "text_encoder" / "model.safetensors", 100)

    code, out, err = verify(capsys, str(root))

    assert code == 1
    assert out == [
        "text_encoder/model.safetensors has 100 bytes, and 772 are listed",
        "tokenizer/tokenizer.json is missing",
        "vae/config.json has other bytes than the listed ones",
        f"{VAE} has other bytes than the listed ones",
    ]
    assert err == (
        f"cosmos-serve: 4 of 10 files in {root} are not as listed. To fetch them again: "
        f"cosmos-serve weights pull {root}"
    )


def test_the_record_of_another_folder_can_be_given(
    capsys: pytest.CaptureFixture[str], root: Path, tmp_path: Path
) -> None:
    listing = (root / "checksums.json").rename(tmp_path / "listing.json")

    assert verify(capsys, str(root), "--listing", str(listing))[0] == 0

    (root / VAE).unlink()
    code, out, _ = verify(capsys, str(root), "--listing", str(listing))
    assert (code, out) == (1, [f"{VAE} is missing"])


GOOD = {"path": "a.json", "size": 2, "hash": "sha256:00"}


@pytest.mark.parametrize(
    "value",
    [
        {"repository": "a", "commit": "b"},
        {"repository": "a", "commit": "b", "files": [GOOD | {"path": "../../etc/passwd"}]},
        {"repository": "a", "commit": "b", "files": [GOOD | {"path": "/etc/passwd"}]},
        {"repository": "a", "commit": "b", "files": [GOOD | {"hash": "crc32:00"}]},
        {"repository": "a", "commit": "b", "files": [GOOD | {"size": "2"}]},
        {"repository": "a", "commit": "b", "files": [GOOD | {"mode": 1}]},
        {"repository": "a", "commit": "b", "files": ["a.json"]},
    ],
    ids=json.dumps,
)
def test_what_is_no_listing_is_refused(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "checksums.json", value)

    with pytest.raises(CheckpointDamaged, match="is no listing of files"):
        read_listing(tmp_path / "checksums.json")


def test_a_folder_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = tmp_path / "chekpoint"

    assert verify(capsys, str(gone)) == (1, [], f"cosmos-serve: There is no folder {gone}.")
