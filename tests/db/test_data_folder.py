"""A data folder belongs to one server, for as long as that lives; commands open it besides."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from api_keys import keys_of
from other_user import as_other_user
from paths import SUPPORT
from servers import (
    ENDPOINT,
    request_of,
    serving,
    settings_in,
    start_server,
    write_small_checkpoint,
)
from structlog.testing import capture_logs

from server.config.errors import SettingsError
from server.config.settings import Settings
from server.data_folder import (
    LOCK_FILE,
    RUN_MARKER,
    SECRETS,
    WRITTEN,
    DataFolderDenied,
    DataFolderInUse,
    DataFolderNotLocal,
    UnusableSecret,
    check_access,
    check_is_local,
    filesystem_of,
    owned,
    read_or_make,
    scratch_in,
)

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
        f"cosmos-serve: Another server (process {first.process.pid}) uses the data folder "
        f"{tmp_path / 'data'}: stop it, or choose another folder with --data.\n"
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


@pytest.mark.parametrize("left", [RUN_MARKER, "tmp0a_b1c2d/video.mp4"])
def test_what_workers_of_a_killed_server_left_is_removed(tmp_path: Path, left: str) -> None:
    """Also what those of an earlier release left, which made no marker."""
    scratch = scratch_in(tmp_path)
    file = scratch / "cosmos-abcd_123" / left
    file.parent.mkdir(parents=True)
    file.touch()
    own = [scratch / name for name in ("thesis.txt", "cosmos-research/notes.txt", "b/video.mp4")]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.touch()

    with owned(tmp_path):
        assert not (scratch / "cosmos-abcd_123").exists()
        assert all(path.exists() for path in own)


def denied(code: str) -> str:
    """What a user who is not root is told, who runs this; what it opens must be open to it."""
    imports = "from server.data_folder import DataFolderDenied, owned"
    return as_other_user(code, imports, "DataFolderDenied")


def test_a_folder_of_another_user_is_refused_with_both_users_and_the_command() -> None:
    uid = os.geteuid() or 10001
    assert denied("owned(Path('/usr')).__enter__()") == (
        f"/usr belongs to uid 0, and this program runs as uid {uid}, which may not read and write "
        f"it: run it as uid 0, or run `chown -R {uid} /usr` as root."
    )
    assert denied("owned(Path('/usr/a b')).__enter__()") == (
        f"The data folder /usr/a b cannot be made by uid {uid}, as which this program runs: run "
        f"`install -d -o {uid} -m 700 '/usr/a b'` as root, or choose another folder with --data."
    )


@pytest.mark.parametrize("name", ["jobs.sqlite3", "files/ab", "key"])
def test_what_cannot_be_used_in_the_folder_is_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if name == "files/ab" else path.touch()
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda asked, mode: access(asked, mode) and (asked != path or not mode)
    )
    with pytest.raises(DataFolderDenied) as denied:
        check_access(tmp_path)
    assert str(denied.value) == (
        f"{path} may not be read and written by its own user: run `chmod -R u+rwX {tmp_path}`."
    )


def test_a_file_that_goes_while_the_folder_is_looked_at_is_no_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the log of the tables does when a command that had them open ends."""
    log, access = tmp_path / "jobs.sqlite3-wal", os.access
    log.touch()

    def closed_after(asked: Path, mode: int) -> bool:
        is_given = access(asked, mode)
        if asked == log:
            log.unlink(missing_ok=True)
        return is_given and (asked != log or mode == os.F_OK)

    monkeypatch.setattr(os, "access", closed_after)
    check_access(tmp_path)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_the_server_makes_is_for_its_user_alone(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    try:
        job = httpx.post(f"{server.http}/run/{ENDPOINT}", json=request_of(), timeout=60)
        assert job.status_code == 200
        (tmp_path / "data" / "files" / "xx").mkdir()
        made = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
        open_to_others = [str(path) for path in made if mode_of(path) & 0o077]
    finally:
        server.end()
    assert {"jobs.sqlite3-wal", "token.secret"} <= {path.name for path in made}
    assert open_to_others == [str(tmp_path / "data" / "files" / "xx")]
    # Each name is known to those who close the folder and see whether it may be written.
    assert {path.name for path in (tmp_path / "data").iterdir()} <= {*WRITTEN, *SECRETS, "scratch"}


def test_what_an_earlier_release_left_open_is_closed(tmp_path: Path) -> None:
    for name in ("jobs.sqlite3", "token.secret", "thesis.txt"):
        (tmp_path / name).touch(0o644)
    for name in ("files", "compiled"):
        (tmp_path / name).mkdir(0o755)
    tmp_path.chmod(0o755)

    with owned(tmp_path):
        modes = {path.name: mode_of(path) for path in (tmp_path, *tmp_path.iterdir())}

    assert modes == {
        "jobs.sqlite3": 0o600,
        "token.secret": 0o600,
        "files": 0o700,
        "compiled": 0o700,
        # Made by others: a folder above, and what lies there besides.
        tmp_path.name: 0o755,
        "thesis.txt": 0o644,
        "scratch": 0o700,
        LOCK_FILE: 0o600,
    }


def test_a_mount_that_is_another_user_s_is_left_and_said_to_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes mounts a volume with `fsGroup`, and OpenShift runs any uid in group 0."""
    (tmp_path / "files").mkdir()
    for path in (tmp_path, tmp_path / "files"):
        path.chmod(0o770)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with capture_logs() as logs, owned(tmp_path):
        assert [mode_of(path) for path in (tmp_path, tmp_path / "files")] == [0o770, 0o770]

    by = f"uid {os.getuid()}, group {tmp_path.stat().st_gid}"
    said = {line["path"]: line["read_by"] for line in logs}
    assert said[str(tmp_path)] == said[str(tmp_path / "files")] == by


def test_a_secret_that_is_too_short_to_be_one_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "token.secret"
    secret.write_bytes(b"")
    with pytest.raises(UnusableSecret, match=r"token\.secret is a secret and has 0 bytes"):
        read_or_make(secret, lambda: b"x" * 32, at_least=32)
    assert secret.read_bytes() == b""


@pytest.mark.parametrize("name", ["token.secret", "webhook-signing-key.pem", "key"])
def test_a_server_does_not_start_with_an_empty_secret(tmp_path: Path, name: str) -> None:
    settings = settings_in(tmp_path, auth="on")
    settings.data.mkdir()
    (settings.data / name).touch()

    async def start() -> None:
        async with serving(settings):
            pass

    with pytest.raises((UnusableSecret, SettingsError), match=name):
        asyncio.run(start())


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
35 22 0:31 / /mnt/team rw,relatime shared:9 - nfs4 server:/team rw,vers=4.2
36 22 0:32 / /mnt/two\\040words rw - cifs //server/share rw
37 35 0:33 / /mnt/team/local rw - xfs /dev/vdb rw
38 22 0:34 / /mnt/mac rw - virtiofs host rw
39 22 0:35 / /mnt/fuse rw - fuse.rclone remote: rw
40 22 0:36 / /mnt/new rw - newfs /dev/vdc rw
41 22 0:37 / /mnt/podman rw - fuse.fuse-overlayfs fuse-overlayfs rw
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


@pytest.mark.parametrize("folder", ["/mnt/team/data", "/mnt/mac", "/mnt/fuse", "/mnt/new"])
def test_a_data_folder_on_a_file_system_that_is_not_known_to_work_is_refused(folder: str) -> None:
    with pytest.raises(DataFolderNotLocal, match="insist with --any-filesystem"):
        check_is_local(Path(folder), MOUNTS)


@pytest.mark.parametrize("folder", ["/srv/data", "/mnt/team/local/data", "/mnt/podman"])
def test_a_data_folder_on_this_machine_s_own_disk_is_taken(folder: str) -> None:
    check_is_local(Path(folder), MOUNTS)


def test_an_operator_may_insist_on_any_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.data_folder.filesystem_of", lambda *_: "virtiofs")
    with pytest.raises(DataFolderNotLocal, match=r"\(virtiofs\)"), owned(tmp_path):
        pass
    with owned(tmp_path, any_filesystem=True):
        pass
