"""A data folder belongs to one server, for as long as that lives; commands open it besides."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from api_keys import keys_of
from paths import SUPPORT
from servers import start_server, write_small_checkpoint

from server.data_folder import (
    LOCK_FILE,
    DataFolderInUse,
    DataFolderShared,
    check_is_local,
    filesystem_of,
    owned,
    scratch_in,
)
from server.settings import Settings

COMMAND = str(Path(sys.executable).with_name("cosmos-serve"))


def second_server(folder: Path) -> subprocess.CompletedProcess[str]:
    """Start another server on the data of the one that `start_server` runs in `folder`."""
    weights = write_small_checkpoint(folder / "other")
    options = ["--weights", weights, "--data", folder / "data", "--devices", "cpu", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    return subprocess.run(
        [COMMAND, "serve", *map(str, options)],
        env={**environment, "COSMOS_WORKER": "workers:ScriptedWorker"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_second_server_says_in_one_sentence_whose_folder_it_is_and_ends(tmp_path: Path) -> None:
    first = start_server(tmp_path)
    try:
        refused = second_server(tmp_path)
        with keys_of(Settings.load(weights=tmp_path, data=tmp_path / "data")) as keys:
            assert keys.all() == []
    finally:
        assert first.end() == 0
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"cosmos-serve: Another server uses the data folder {tmp_path / 'data'}: stop it, or "
        "choose another folder with --data.\n"
    )


def test_a_server_that_was_killed_leaves_its_folder_to_the_next(tmp_path: Path) -> None:
    start_server(tmp_path).end(signal.SIGKILL)
    assert (tmp_path / "data" / LOCK_FILE).exists()
    assert start_server(tmp_path).end() == 0


def test_a_folder_is_free_again_after_its_owner(tmp_path: Path) -> None:
    for _ in range(2):
        with owned(tmp_path), pytest.raises(DataFolderInUse), owned(tmp_path):
            pass


def test_a_process_that_the_owner_starts_does_not_inherit_the_folder(tmp_path: Path) -> None:
    with owned(tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with owned(tmp_path):
            assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_what_workers_of_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    left = scratch_in(tmp_path) / "cosmos-1" / "video.mp4"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a video")

    with owned(tmp_path):
        assert list(scratch_in(tmp_path).iterdir()) == []


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
35 22 0:31 / /mnt/team rw,relatime shared:9 - nfs4 server:/team rw,vers=4.2
36 22 0:32 / /mnt/two\\040words rw - cifs //server/share rw
37 35 0:33 / /mnt/team/local rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/data", "ext4"),
        ("/mnt/team", "nfs4"),
        ("/mnt/team/cosmos/data", "nfs4"),
        ("/mnt/teamwork", "ext4"),
        ("/mnt/two words/data", "cifs"),
        ("/mnt/team/local/data", "xfs"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_mount_nearest_to_it(
    folder: str, kind: str
) -> None:
    assert filesystem_of(Path(folder), MOUNTS) == kind


def test_a_data_folder_on_a_network_is_refused() -> None:
    with pytest.raises(DataFolderShared, match=r"/mnt/team/data is on a network \(nfs4\)"):
        check_is_local(Path("/mnt/team/data"), MOUNTS)
    check_is_local(Path("/mnt/team/local/data"), MOUNTS)
