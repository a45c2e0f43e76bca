"""What a bucket that is away, or is none, means to those who want files of it."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from job_fixtures import Place
from obstore.store import MemoryStore
from s3_server import objects_in_memory
from structlog.testing import capture_logs

from server.config.errors import SettingsError
from server.disk import shortage_of
from server.errors import FilesAway
from server.files import s3
from server.files.copy import copy_files
from server.files.local import LocalFiles
from server.files.opening import open_files
from server.files.s3 import S3Files
from server.files.unknown_files import remove_unknown_objects, unknown_objects
from server.files.upload_store import NewUpload

AWAY = "The store of the server's files is away."
NO_BUCKET = "The bucket of the server's files is not there."


class Stranger(BaseHTTPRequestHandler):
    """A machine that knows nothing of S3."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_PUT = do_POST = do_GET  # noqa: N815 - its base calls them so

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def stranger() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def bucket_at(endpoint: str, folder: Path, patch: pytest.MonkeyPatch) -> S3Files:
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", "me")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    patch.setattr(s3, "_RETRY", {"max_retries": 0})
    return S3Files.at("s3://videos/cosmos", scratch=folder)


USES: dict[str, Callable[[S3Files], object]] = {
    "read": lambda files: files.read("a"),
    "list": lambda files: list(files.ids()),
    "put": lambda files: files.put("a", b"x", "text/plain", is_new=True),
    "put in parts": lambda files: files.put("a", iter([b"x"]), "text/plain", is_new=True),
    "remove": lambda files: files.remove("a"),
    "check": lambda files: files.check(),
}


@pytest.mark.parametrize("use", USES)
def test_what_is_no_bucket_has_not_lost_a_file(
    use: str, tmp_path: Path, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = bucket_at(stranger, tmp_path, monkeypatch)
    with pytest.raises(FilesAway) as away:
        USES[use](files)
    assert away.value.sentence in (AWAY, NO_BUCKET)
    assert shortage_of(away.value) is away.value


async def test_nobody_waits_for_a_bucket_that_is_away_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PROBE_EVERY_S", 0.01)
    files = bucket_at("http://127.0.0.1:1", tmp_path, monkeypatch)
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(FilesAway, match=AWAY):
                files.read("a")
        assert (files.problem, [line["event"] for line in logs]) == (AWAY, [AWAY])
        files._store = MemoryStore()
        with pytest.raises(FilesAway, match=AWAY):
            files.receive()
        watching = asyncio.create_task(files.watch())
        while files.problem is not None:
            await asyncio.sleep(0.01)
        watching.cancel()
    with files.receive() as incoming:
        incoming.write(b"x")
        incoming.keep()
    assert files.read(incoming.id) == b"x"
    assert logs[-1]["event"] == "The store of the server's files can be used again"


async def test_a_bucket_that_cannot_be_used_at_the_start_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = bucket_at("http://127.0.0.1:1", tmp_path, monkeypatch)
    watching = asyncio.create_task(files.watch())
    while files.problem is None:
        await asyncio.sleep(0.01)
    watching.cancel()
    assert files.problem == AWAY


def test_a_file_that_is_sent_in_parts_fails_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent is gone: nobody waits to send the rest."""
    files = bucket_at("http://127.0.0.1:1", tmp_path, monkeypatch)
    with files.receive() as incoming:
        for _ in range(6):
            with pytest.raises(Exception, match=AWAY) as failed:
                while True:
                    incoming.write(b"x" * 1_000_000)
        assert not isinstance(failed.value, FilesAway)
        with pytest.raises(Exception, match=AWAY):
            incoming.keep()


def test_an_answer_that_was_lost_does_not_lose_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = objects_in_memory(tmp_path)
    put = files.put

    def put_and_lose_the_answer(*arguments: object, **named: object) -> None:
        monkeypatch.setattr(files, "put", put)
        put(*arguments, **named)  # type: ignore[arg-type]
        raise FilesAway(AWAY)

    monkeypatch.setattr(files, "put", put_and_lose_the_answer)
    with files.receive() as incoming:
        incoming.write(b"x")
        with pytest.raises(FilesAway):
            incoming.keep()
        incoming.keep()
    assert files.read(incoming.id) == b"x"


def test_a_url_of_the_bucket_is_signed_for_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = bucket_at("http://127.0.0.1:1", tmp_path, monkeypatch)
    url = files.signed_url("a" * 32, seconds=60)
    assert url.startswith(f"http://127.0.0.1:1/videos/cosmos/{'a' * 32}?X-Amz-Algorithm=")
    assert "X-Amz-Expires=60&" in url
    assert "a-secret" not in url


async def body() -> AsyncIterator[bytes]:
    yield b"x"


async def test_old_temporary_objects_without_a_row_go_and_nothing_else(tmp_path: Path) -> None:
    files = objects_in_memory(tmp_path)
    place = Place(tmp_path, files=files)
    known = {place.made("a")[1].id}
    uploads = place.uploads()
    new = NewUpload(key_id=None, file_name="x", content_type="text/plain")
    upload = await uploads.begin(new, in_parts=True)
    known.add((await uploads.put_part(upload, 1, body())).file_id)
    unknown = {prefix: files.receive(prefix) for prefix in ("", "image-", "part-")}
    for incoming in unknown.values():
        incoming.keep()
    everything = set(files.ids())

    remove_unknown_objects(place.database, files, old_s=3600)
    assert set(files.ids()) == everything, "they may be on their way"

    remove_unknown_objects(place.database, files, old_s=-3600)
    assert set(files.ids()) == known | {unknown[""].id}
    place.database.close()


def test_the_unknown_objects_are_old_and_of_this_server(tmp_path: Path) -> None:
    files = objects_in_memory(tmp_path)
    place = Place(tmp_path, files=files)
    place.made("a")
    with files.receive() as incoming:
        incoming.keep()
    files.put("README", b"of somebody else", "text/plain", is_new=True)

    assert unknown_objects(place.database, files, old_s=3600) == []
    assert unknown_objects(place.database, files, old_s=-3600) == [incoming.id]
    place.database.close()


def test_a_store_without_its_extra_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "server.files.s3")
    with pytest.raises(SettingsError, match=r"pip install 'cosmos-serve\[s3\]'"):
        open_files("s3://videos/cosmos", tmp_path)
    assert isinstance(open_files(None, tmp_path), LocalFiles)


class Shown:
    """A display that nobody sees."""

    def __init__(self, total: int) -> None:
        self.left = total

    def __enter__(self) -> "Shown":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.left == 0

    def advance(self, count: int) -> None:
        self.left -= count


def test_files_are_copied_once_and_damage_is_not(tmp_path: Path) -> None:
    place = Place(tmp_path)
    whole, damaged, lost = (place.made(name)[1].id for name in "abc")
    folder = place.folder
    folder.path(damaged).write_bytes(b"other")
    folder.path(lost).unlink()
    target = objects_in_memory(tmp_path)

    copied = copy_files(place.database, folder, target, Shown)
    again = copy_files(place.database, folder, target, Shown)

    assert (copied.copied, copied.size, copied.there) == (1, 5, 0)
    assert (copied.missing, copied.damaged) == ([lost], [damaged])
    assert (again.copied, again.there) == (0, 1)
    assert list(target.ids()) == [whole]
    place.database.close()
