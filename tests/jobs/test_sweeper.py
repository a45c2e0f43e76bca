"""The server's one task that removes what is over."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from job_fixtures import Place
from structlog.testing import capture_logs

from server.files.local import LocalFiles
from server.files.unknown_files import UnknownFiles
from server.files.upload_store import NewUpload
from server.files.uploads import Uploads
from server.inputs.image_store import UNWANTED_LIFETIME_S, ImageStore
from server.jobs.clock import DOUBT_S, Clock, Heartbeat
from server.sweeper import Sweeper

DAY_S = 86_400.0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, keep_s=DAY_S)
    yield place
    place.database.close()


def unknown_files(place: Place) -> UnknownFiles:
    quarantine = LocalFiles(place.folder.root.with_name("quarantine"))
    return UnknownFiles(place.database, place.folder, quarantine, now=place.clock)


def sweeper(place: Place, images: ImageStore, uploads: Uploads) -> Sweeper:
    """One whose clock is that of the place."""
    clock = Clock(wall=place.clock, steady=place.clock)
    heartbeat = Heartbeat(place.database, clock)
    unknown = unknown_files(place)
    swept = (place.retention, images, uploads, unknown)
    sweeps = {type(each).__name__: each.sweep for each in swept}
    return Sweeper(sweeps, heartbeat)


def put_image(place: Place, images: ImageStore) -> None:
    """An image that no job needs."""
    place.submit("waits")
    with images.incoming() as incoming:
        place.store.set_inputs("waits", {"x": incoming.add_sent(b"an image")}, place=incoming.place)
    place.store.request_cancel("waits")


async def put_upload(uploads: Uploads) -> None:
    """An upload that may stay for a minute."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    new = NewUpload(key_id=None, file_name="x", content_type="text/plain", lifetime_s=60)
    await uploads.receive(new, body())


@pytest.mark.parametrize("failing", [None, "retention", "images", "uploads"])
async def test_jobs_images_and_uploads_go_and_one_that_cannot_keeps_no_other(
    place: Place, failing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageStore(place.database, place.files, now=place.clock)
    uploads = place.uploads()
    parts = {"retention": place.retention, "images": images, "uploads": uploads}
    place.made("a")
    put_image(place, images)
    await put_upload(uploads)
    images.sweep()
    place.clock.now += DAY_S + UNWANTED_LIFETIME_S

    def fail() -> None:
        raise RuntimeError("cannot remove")

    if failing is not None:
        monkeypatch.setattr(parts[failing], "sweep", fail)
    with capture_logs() as logs:
        await sweeper(place, images, uploads).sweep()

    left = {"retention": ["video"], "images": ["image"], "uploads": ["upload"], None: []}
    assert [kind for (kind,) in place.rows("SELECT kind FROM artifacts")] == left[failing]
    assert len(list(place.files.ids())) == len(left[failing])
    assert len(logs) == (failing is not None)


async def test_what_the_last_server_left_unfinished_is_cleared_up(place: Place) -> None:
    _, video = place.made("a")
    with place.files.receive() as orphan, place.files.receive() as part:
        orphan.keep()
        unknown_files(place).clean_up()
        assert list(place.files.ids()) == [video.id]
        assert not place.folder.path(part.id).with_suffix(".part").exists()


async def test_nothing_goes_by_a_clock_that_the_last_heartbeat_contradicts(place: Place) -> None:
    images = ImageStore(place.database, place.files, now=place.clock)
    uploads = place.uploads(keep_s=DAY_S)
    place.made("a")
    await put_upload(uploads)
    await sweeper(place, images, uploads).sweep()
    here = sorted(place.files.ids())
    assert len(here) == 2

    place.clock.now += 400 * DAY_S
    with capture_logs() as logs:
        started_again = sweeper(place, images, uploads)
    await started_again.sweep()
    await sweeper(place, images, uploads).sweep()
    assert sorted(place.files.ids()) == here
    assert place.store.job("a").done
    assert [line["days"] for line in logs] == [400.0]

    place.clock.now += DOUBT_S
    await started_again.sweep()
    assert list(place.files.ids()) == []
    assert place.rows("SELECT at FROM heartbeat") == [(place.clock.now,)]


async def test_a_doubt_of_the_clock_ends_however_often_the_server_is_started(place: Place) -> None:
    images = ImageStore(place.database, place.files, now=place.clock)
    uploads = place.uploads()
    place.made("a")
    await sweeper(place, images, uploads).sweep()
    for _ in range(3):
        assert len(list(place.files.ids())) == 1
        place.clock.now += 2 * DAY_S
        started_again = sweeper(place, images, uploads)
        await started_again.sweep()
        place.clock.now += DOUBT_S / 3
        await started_again.sweep()
    assert list(place.files.ids()) == []
    assert place.rows("SELECT at, doubted_s FROM heartbeat") == [(place.clock.now, 0.0)]


async def test_a_server_that_was_away_for_a_while_sweeps_at_once(place: Place) -> None:
    images = ImageStore(place.database, place.files, now=place.clock)
    uploads = place.uploads()
    place.made("a")
    await sweeper(place, images, uploads).sweep()
    place.clock.now += DAY_S
    await sweeper(place, images, uploads).sweep()
    assert list(place.files.ids()) == []
