"""`weights pull` against a stand-in of the hub that cuts, lies, stalls and refuses."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint_files import write_checkpoint, write_shards, write_tensors
from command_line import call
from hub_stand_in import LISTING, Fault, StandInHub, files_in, forget_the_hub, running_hub

from weights import download
from weights.manifest import load_manifest

BIG = "transformer/diffusion_pytorch_model.safetensors"
SMALL = "vae/config.json"
PAGE = "https://huggingface.co/nvidia/Cosmos-Predict2.5-2B"
UNNEEDED = {
    "README.md": b"# Cosmos",
    "vae/diffusion_pytorch_model.bin": b"a pickle",
    "transformer/diffusion_pytorch_model.fp16.safetensors": b"another precision",
    "text_encoder/generation_config.json": b"{}",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that are needed; the big one has 256 KiB of data."""
    root = write_checkpoint(tmp_path_factory.mktemp("published"))
    write_tensors(root / BIG, {"patch_embed.proj.weight": (256, 256)})
    (root / "text_encoder" / "model.safetensors").unlink()
    write_shards(root / "text_encoder", "model", [{"model.norm.weight": (4,)}, {"x": (2,)}])
    return files_in(root)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    forget_the_hub(monkeypatch, tmp_path)
    return monkeypatch


@pytest.fixture
def hub(published: dict[str, bytes], environment: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with running_hub(published | UNNEEDED) as hub:
        environment.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


def pull(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> str:
    """What is said on stderr by a pull that succeeds."""
    code, out, err = call(capsys, "weights", "pull", str(folder), *options)
    assert code == 0, err
    assert out.startswith(f"{folder}: nvidia/Cosmos-Predict2.5-2B at 0d37c7498f54cee3")
    return err


def fails(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> str:
    """The last line of a pull that fails."""
    code, out, err = call(capsys, "weights", "pull", str(folder), *options)
    assert (code, out) == (1, ""), err
    return err.splitlines()[-1].removeprefix("cosmos-serve: ")


def test_what_is_needed_is_fetched_once_and_recorded(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
) -> None:
    hub.token = "hf_secret"
    environment.setenv("HF_TOKEN", hub.token)

    err = pull(capsys, folder)

    record = json.loads((folder / "checksums.json").read_text())
    (folder / "checksums.json").unlink()
    assert files_in(folder) == published
    assert "Fetching: 100% of " in err
    # No telemetry, and no request that the listing or a file does not need.
    assert hub.unknown == []
    assert sorted(r.what for r in hub.requests) == sorted([LISTING, *published])
    assert {r.headers["Accept-Encoding"] for r in hub.requests} == {"identity"}
    assert (record["repository"], record["commit"]) == (
        load_manifest().repository,
        "0d37c7498f54cee3c599d438d895a0a4a8608064",
    )
    assert {(f["path"], f["size"], f["hash"].partition(":")[0]) for f in record["files"]} == {
        (path, len(data), "sha256" if path.endswith(".safetensors") else "git-blob-sha1")
        for path, data in published.items()
    }


def test_what_is_here_is_read_and_only_what_is_wrong_is_fetched_again(
    capsys: pytest.CaptureFixture[str],
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
) -> None:
    pull(capsys, folder)
    hub.requests.clear()
    (folder / SMALL).unlink()
    with (folder / BIG).open("r+b") as file:
        file.seek(100_000)
        file.write(b"flipped")
    (folder / "mine.txt").write_text("kept")

    pull(capsys, folder)

    assert sorted(r.what for r in hub.requests) == sorted([LISTING, BIG, SMALL])
    assert published.items() < files_in(folder).items()
    assert (folder / "mine.txt").read_text() == "kept"


ONCE = {
    "cut": Fault(cut_after=100_000),
    "cut before the first byte": Fault(cut_after=0),
    "stalls": Fault(stall_after=100_000),
    "lies": Fault(lies=True),
    "too long": Fault(body=bytes(300_000)),
    "empty": Fault(body=b""),
    "busy": Fault(status=429, headers={"Retry-After": "0"}),
    "broken": Fault(status=500),
    "down": Fault(status=503, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
}


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
def test_a_file_that_fails_once_is_fetched_all_the_same(
    capsys: pytest.CaptureFixture[str],
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
    fault: Fault,
) -> None:
    hub.fail(BIG, fault)

    pull(capsys, folder)

    assert published.items() < files_in(folder).items()
    assert len(hub.asked(BIG)) == 2


@pytest.mark.parametrize("fault", ["cut", "stalls", "busy", "broken", "down"])
def test_a_listing_that_fails_once_is_asked_for_again(
    capsys: pytest.CaptureFixture[str],
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
    fault: str,
) -> None:
    shorter = {"cut": Fault(cut_after=100), "stalls": Fault(stall_after=100)}
    hub.fail(LISTING, shorter.get(fault, ONCE[fault]))

    err = pull(capsys, folder)

    assert "The list of files: " in err
    assert published.items() < files_in(folder).items()
    assert len(hub.asked(LISTING)) == 2


def test_a_download_that_is_cut_goes_on_where_it_was_cut(
    capsys: pytest.CaptureFixture[str], hub: StandInHub, folder: Path
) -> None:
    hub.fail(BIG, *[Fault(cut_after=30_000)] * 7)

    err = pull(capsys, folder)

    assert hub.asked(BIG) == [30_000 * cut for cut in range(8)]
    assert hub.sent[BIG] == len(hub.files[BIG])
    assert f"{BIG}: 127.0.0.1 cannot be reached (peer closed connection" in err


def test_a_server_without_ranges_sends_the_file_again(
    capsys: pytest.CaptureFixture[str],
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
) -> None:
    hub.fail(BIG, Fault(cut_after=100_000), Fault(whole=True))

    pull(capsys, folder)

    assert hub.asked(BIG) == [0, 100_000]
    assert published.items() < files_in(folder).items()


def test_another_range_than_the_one_asked_for_is_not_taken(
    capsys: pytest.CaptureFixture[str],
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
) -> None:
    shifted = Fault(headers={"Content-Range": "bytes 99999-262000/262001"})
    hub.fail(BIG, Fault(cut_after=100_000), shifted)

    pull(capsys, folder)

    assert hub.asked(BIG) == [0, 100_000, 100_000]
    assert published.items() < files_in(folder).items()


def test_retry_after_is_how_long_it_waits(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    hub: StandInHub,
    folder: Path,
) -> None:
    waits: list[float] = []
    environment.setattr("time.sleep", waits.append)
    environment.setattr("weights.parallel.Parallel.wait", lambda _self, s: waits.append(s))
    environment.setattr(download, "FIRST_WAIT_S", 1.0)
    busy = Fault(status=429, headers={"Retry-After": "17"})
    hub.fail(LISTING, busy, Fault(status=503), Fault(status=503))
    hub.fail(BIG, Fault(status=429, headers={"Retry-After": "86400"}), busy)

    err = pull(capsys, folder)

    assert waits == [17, 2, 4, 600, 17]
    assert "The list of files: 127.0.0.1 answered 429 Too Many Requests; the next try is in" in err


ALWAYS = {
    "lies": (Fault(lies=True), "came with other bytes than the listed ones, 2 times", 2, None),
    "broken": (Fault(status=500), "127.0.0.1 answered 500", 6, 0),
    "stalls": (Fault(stall_after=0), "cannot be reached (timed out), 6 times", 6, 0),
    "cut": (Fault(cut_after=0), "What came is kept", 6, 0),
    "cut and whole": (Fault(cut_after=9_000, whole=True), "What came is kept", 6, 9_000),
}


@pytest.mark.parametrize(("fault", "message", "tries", "kept"), ALWAYS.values(), ids=ALWAYS)
def test_a_file_that_always_fails_is_given_up_and_named(
    capsys: pytest.CaptureFixture[str],
    hub: StandInHub,
    folder: Path,
    fault: Fault,
    message: str,
    tries: int,
    kept: int | None,
) -> None:
    hub.always_fail(BIG, fault)

    said = fails(capsys, folder)

    assert said.startswith(BIG)
    assert message in said
    assert len(hub.asked(BIG)) == tries
    assert not (folder / BIG).exists()
    assert not (folder / "checksums.json").exists()
    part = folder / f"{BIG}.part"
    assert (part.stat().st_size if part.exists() else None) == kept


REFUSED = {
    "no token": (Fault(status=401, error="GatedRepo"), None, ["is gated", PAGE, "run: hf auth"]),
    "a token that is no more": (Fault(status=401), "hf_old", ["is not valid", "settings/tokens"]),
    "no access": (
        Fault(status=403, error="GatedRepo"),
        "hf_mine",
        ["(As the test wants)", f"Accept the licence at {PAGE} with that account"],
    ),
    "unknown": (Fault(status=404, error="RevisionNotFound"), None, ["answered 404"]),
}


@pytest.mark.parametrize("what", [LISTING, BIG])
@pytest.mark.parametrize("is_empty", [True, False], ids=["empty folder", "folder with files"])
@pytest.mark.parametrize("refusal", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_explained_and_not_asked_for_again(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    hub: StandInHub,
    folder: Path,
    what: str,
    is_empty: bool,
    refusal: tuple[Fault, str | None, list[str]],
) -> None:
    fault, token, messages = refusal
    if token is not None:
        environment.setenv("HF_TOKEN", token)
    if not is_empty:
        write_checkpoint(folder)
    hub.always_fail(what, fault)

    said = fails(capsys, folder)

    assert all(message in said for message in messages), said
    assert token is None or token not in said
    assert len(hub.asked(what)) == 1
    assert not (folder / "checksums.json").exists()


@pytest.mark.parametrize("answer", [b"<html>Log in here.</html>", b'{"error": 1}', b"[[1]]"])
def test_an_answer_that_is_no_listing_is_said(
    capsys: pytest.CaptureFixture[str], hub: StandInHub, folder: Path, answer: bytes
) -> None:
    hub.fail(LISTING, Fault(body=answer))

    assert "answered with something else than a listing" in fails(capsys, folder)


def test_a_listing_that_lacks_a_file_is_refused_before_anything_is_fetched(
    capsys: pytest.CaptureFixture[str], hub: StandInHub, folder: Path
) -> None:
    del hub.files[SMALL]
    del hub.files["text_encoder/model.safetensors.index.json"]
    del hub.files["tokenizer/tokenizer.json"]
    del hub.files["model_index.json"]

    assert fails(capsys, folder).endswith(
        "lacks model_index.json, text_encoder/model.safetensors, tokenizer/tokenizer.json, "
        "vae/config.json."
    )
    assert [request.what for request in hub.requests] == [LISTING]


def test_a_redirect_to_another_host_gets_no_token(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
) -> None:
    """Where an URL is no longer good there, the hub is asked for another."""
    hub.token = "hf_secret"
    environment.setenv("HF_TOKEN", hub.token)
    with running_hub(published, host="localhost") as storage:
        for path in published:
            hub.fail(path, *[Fault(elsewhere=storage.url)] * 3)
        storage.fail(BIG, Fault(cut_after=100_000), Fault(status=403))

        pull(capsys, folder)

    assert published.items() < files_in(folder).items()
    assert storage.asked(BIG) == [0, 100_000, 100_000]
    assert {request.authorization for request in hub.requests} == {"Bearer hf_secret"}
    assert {request.authorization for request in storage.requests} == {None}


def test_a_pull_that_is_killed_goes_on_where_it_was(
    capsys: pytest.CaptureFixture[str],
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
) -> None:
    hub.fail(BIG, Fault(stall_after=200_000))
    command = [sys.executable, "-c", "from server.cli.main import main; main()"]
    with subprocess.Popen([*command, "weights", "pull", str(folder)], env=os.environ) as process:
        assert hub.stalled.wait(60)
        part = folder / f"{BIG}.part"
        while process.poll() is None and (not part.exists() or part.stat().st_size < 200_000):
            pass
        process.kill()
    assert process.returncode == -signal.SIGKILL

    pull(capsys, folder)

    assert hub.asked(BIG) == [0, 200_000]
    assert published.items() < files_in(folder).items()


def test_a_part_of_another_version_is_given_up(
    capsys: pytest.CaptureFixture[str],
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
) -> None:
    (folder / "transformer").mkdir(parents=True)
    (folder / f"{BIG}.part").write_bytes(b"\1" * 200_000)
    (folder / f"{SMALL}.part").parent.mkdir()
    (folder / f"{SMALL}.part").write_bytes(b"\1" * 200_000)

    pull(capsys, folder)

    assert hub.asked(BIG) == [200_000, 0]
    assert hub.asked(SMALL) == [0]
    assert published.items() < files_in(folder).items()


def test_two_pulls_into_a_folder_do_not_mix(
    capsys: pytest.CaptureFixture[str], hub: StandInHub, folder: Path
) -> None:
    (folder / "transformer").mkdir(parents=True)
    with (folder / f"{BIG}.part").open("wb") as part:
        fcntl.flock(part, fcntl.LOCK_EX)

        assert fails(capsys, folder).endswith(".part is being written by another process.")


def test_another_checkpoint_is_not_overwritten(
    capsys: pytest.CaptureFixture[str], hub: StandInHub, folder: Path
) -> None:
    write_checkpoint(folder)
    (folder / "cosmos_serve.json").write_text("{}")
    before = files_in(folder)

    assert f"{folder} holds another checkpoint" in fails(capsys, folder)
    assert files_in(folder) == before


def test_space_is_looked_for_first(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
) -> None:
    """What is here already needs none."""
    wanted = sum(map(len, published.values())) - 200_000
    usage = shutil.disk_usage(folder.parent)
    (folder / "transformer").mkdir(parents=True)
    (folder / f"{BIG}.part").write_bytes(published[BIG][:200_000])
    environment.setattr(shutil, "disk_usage", lambda _: usage._replace(free=wanted - 1))

    assert "GiB of free space" in fails(capsys, folder)
    assert [request.what for request in hub.requests] == [LISTING]

    environment.setattr(shutil, "disk_usage", lambda _: usage._replace(free=wanted))
    pull(capsys, folder)


def test_a_hub_that_nobody_answers_for_is_named(
    capsys: pytest.CaptureFixture[str], environment: pytest.MonkeyPatch, folder: Path
) -> None:
    with running_hub({}) as gone:
        environment.setenv("HF_ENDPOINT", gone.url)

    said = fails(capsys, folder)

    assert said.startswith("The list of files: 127.0.0.1 cannot be reached (")
    assert not folder.exists()


def test_a_wait_for_the_hub_is_one_line_of_a_log(
    capsys: pytest.CaptureFixture[str], environment: pytest.MonkeyPatch, folder: Path
) -> None:
    """It has no width, and a name in brackets is no style."""
    with running_hub({}) as gone:
        environment.setenv("HF_ENDPOINT", gone.url)

    _, _, err = call(capsys, "weights", "pull", str(folder))

    *waits, _ = err.splitlines()
    assert len(waits) == 5
    assert all(line.endswith(" s.") and "cannot be reached ([Errno " in line for line in waits)


def test_offline_means_that_nothing_is_asked(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    hub: StandInHub,
    folder: Path,
) -> None:
    environment.setenv("HF_HUB_OFFLINE", "1")

    assert "HF_HUB_OFFLINE is set" in fails(capsys, folder)
    assert hub.requests == []


def test_a_mirror_must_be_a_url(
    capsys: pytest.CaptureFixture[str], environment: pytest.MonkeyPatch, folder: Path
) -> None:
    environment.setenv("HF_ENDPOINT", "hf-mirror.example")

    code, _, err = call(capsys, "weights", "pull", str(folder))

    assert code == 2
    assert "HF_ENDPOINT='hf-mirror.example': expected a URL" in err


def test_the_folder_can_come_from_the_settings(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    hub: StandInHub,
    folder: Path,
    tmp_path: Path,
) -> None:
    code, _, err = call(capsys, "weights", "pull")
    assert (code, err) == (
        2,
        "cosmos-serve: Give the checkpoint's folder, or set COSMOS_WEIGHTS.\n",
    )

    environment.setenv("COSMOS_WEIGHTS", str(folder))
    assert call(capsys, "weights", "pull")[0] == 0
    environment.delenv("COSMOS_WEIGHTS")
    (tmp_path / "config.toml").write_text(f'weights = "{folder}"')
    environment.setenv("COSMOS_CONFIG", str(tmp_path / "config.toml"))
    assert call(capsys, "weights", "verify")[0] == 0


def test_a_checkpoint_at_hand_is_copied_without_the_hub(
    capsys: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
    tmp_path: Path,
) -> None:
    pull(capsys, folder)
    hub.requests.clear()
    environment.setenv("HF_HUB_OFFLINE", "1")
    copy = tmp_path / "copy"

    pull(capsys, copy, "--from", str(folder))

    assert hub.requests == []
    assert files_in(copy) == files_in(folder)

    assert "There is no folder nowhere to copy" in fails(
        capsys, tmp_path / "a", "--from", "nowhere"
    )
    (folder / SMALL).write_bytes(b"{")
    assert f"{SMALL} has 1 bytes, and " in fails(capsys, tmp_path / "b", "--from", str(folder))
    (folder / SMALL).write_bytes(published[SMALL])
    (folder / BIG).write_bytes(bytes(len(published[BIG])))
    assert f"{BIG} came with other bytes" in fails(capsys, tmp_path / "c", "--from", str(folder))


def test_a_checkpoint_that_was_got_otherwise_is_checked_against_the_hub(
    capsys: pytest.CaptureFixture[str],
    published: dict[str, bytes],
    hub: StandInHub,
    folder: Path,
    tmp_path: Path,
) -> None:
    for path, data in (published | UNNEEDED).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    copy = tmp_path / "copy"

    pull(capsys, copy, "--from", str(folder))

    assert [request.what for request in hub.requests] == [LISTING]
    assert files_in(copy).keys() == published.keys() | {"checksums.json"}
