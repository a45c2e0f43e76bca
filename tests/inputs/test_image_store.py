"""Images stay while a job that is not done needs them, and go soon after, row and file."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_calls import app_of
from job_fixtures import FAILURE, Where, new_job, sql
from queue_calls import result_of, submit, until_prepared
from servers import data_uri, picture, request_of, serving, settings_in

from pipeline.spec import Pixels
from server.db.database import Database
from server.errors import QueueFull
from server.files.local import LocalFiles
from server.files.unknown_files import UnknownFiles
from server.inputs.image_store import UNWANTED_LIFETIME_S, ImageStore
from server.jobs.store import JobStore
from server.models import Job, StoredArtifact


def nothing() -> None:
    """Do nothing."""


class Place:
    """The tables and files of a server, without the server."""

    def __init__(self, folder: Path, where: Where) -> None:
        self.now = 1000.0
        self.folder = folder
        self.where = where
        self.database = Database(where)
        self.files = LocalFiles(folder / "files")
        self.store = JobStore(self.database, owner="test", now=lambda: self.now)
        self.images = ImageStore(self.database, self.files, now=lambda: self.now)

    def submit(
        self,
        job_id: str,
        data: bytes = b"an image",
        *,
        limit: int = 1000,
        written: Callable[[], object] = nothing,
        placed: Callable[[], object] = nothing,
    ) -> Job:
        """Take a request in that comes with its image, as `Submissions` does.

        `written` is called when the image is written, `placed` when its file has its name.
        """
        with self.images.incoming() as images:
            kept = images.add_sent(data)
            written()
            media = {"image": {"artifact": kept.id}}
            new = new_job(job_id, input={"media": media, "sync_mode": False})

            def place() -> None:
                images.place()
                placed()

            return self.store.submit(new, queue_limit=limit, artifacts=[kept], place=place)

    def prepare(self, job_id: str, rgb: bytes = b"rgb") -> StoredArtifact:
        """Take its image in, as `InputPreparer` does."""
        with self.images.incoming() as images:
            kept = images.add_pixels([Pixels(1, 1, rgb)])
            self.store.set_inputs(job_id, {"image": kept}, place=images.place)
            return kept

    def expire(self) -> None:
        """Leave a first image without a job, whose time is over."""
        self.submit("old")
        self.store.request_cancel("old")
        self.sweep_after(1.0)
        self.now += UNWANTED_LIFETIME_S

    def sweep_after(self, seconds: float) -> None:
        self.now += seconds
        self.images.sweep()

    def start_again(self) -> None:
        """What the next start does."""
        quarantine = LocalFiles(self.folder / "quarantine")
        UnknownFiles(self.database, self.files, quarantine).set_aside()

    def rows(self) -> dict[str, float | None]:
        return dict(sql(self.where, "SELECT id, expires_at FROM artifacts"))

    def kept(self) -> set[str]:
        """The images that are there, of which each must have both row and file."""
        files = set(self.files.ids())
        assert files == self.rows().keys()
        return {name.partition("-")[0] for name in files}


@pytest.fixture
def place(tmp_path: Path, where: Where) -> Iterator[Place]:
    place = Place(tmp_path, where)
    yield place
    assert list(tmp_path.rglob("*.part")) == []
    place.database.close()


def test_an_image_stays_as_long_as_a_job_wants_it_and_ten_minutes_more(place: Place) -> None:
    place.submit("a")
    place.sweep_after(10 * UNWANTED_LIFETIME_S)
    place.prepare("a")
    place.sweep_after(10 * UNWANTED_LIFETIME_S)
    run = place.store.claim("cpu")
    assert run is not None
    place.sweep_after(10 * UNWANTED_LIFETIME_S)
    assert place.kept() == {"image", "pixels"}
    assert set(place.rows().values()) == {None}, "it is not given a time while it is wanted"

    place.store.finish("a", run.attempt, error=FAILURE)
    place.sweep_after(3600.0)
    place.sweep_after(UNWANTED_LIFETIME_S - 1.0)
    assert place.kept() == {"image", "pixels"}
    place.sweep_after(1.0)
    assert place.kept() == set()


def test_an_image_that_several_jobs_share_stays_for_the_last(place: Place) -> None:
    for job in ("a", "b"):
        place.submit(job)
        place.prepare(job)
    place.store.request_cancel("a")
    place.sweep_after(1.0)
    place.sweep_after(UNWANTED_LIFETIME_S)
    assert place.kept() == {"image", "pixels"}

    place.store.request_cancel("b")
    place.sweep_after(1.0)
    place.sweep_after(UNWANTED_LIFETIME_S)
    assert place.kept() == set()


def test_an_image_that_comes_again_in_its_last_minutes_is_wanted_again(place: Place) -> None:
    place.submit("a")
    place.store.request_cancel("a")
    place.sweep_after(1.0)
    place.submit("b")
    pixels = place.prepare("b")
    place.sweep_after(2 * UNWANTED_LIFETIME_S)
    place.sweep_after(2 * UNWANTED_LIFETIME_S)

    assert place.kept() == {"image", "pixels"}
    assert place.store.artifact(pixels.id) == pixels


def test_pixels_that_are_to_be_made_anew_leave_what_they_are_made_from(place: Place) -> None:
    place.submit("a")
    place.prepare("a")
    run = place.store.claim("cpu")
    assert run is not None
    place.store.give_back("a", run.attempt, keeps_inputs=False)
    place.sweep_after(1.0)
    place.sweep_after(UNWANTED_LIFETIME_S)

    assert place.kept() == {"image"}


def test_images_of_an_earlier_release_go_as_others_do(place: Place) -> None:
    """There they stayed for ever, with no time."""
    for number in range(3):
        place.submit(str(number), b"%d" % number)
        place.store.request_cancel(str(number))
    assert set(place.rows().values()) == {None}
    place.sweep_after(1.0)
    place.sweep_after(UNWANTED_LIFETIME_S)

    assert place.kept() == set()


def test_an_image_whose_request_was_refused_leaves_nothing(place: Place) -> None:
    with pytest.raises(QueueFull):
        place.submit("a", limit=0)

    assert place.kept() == set()


def test_an_image_that_is_sent_at_once_by_several_is_kept_once(place: Place) -> None:
    together = threading.Barrier(4)
    with ThreadPoolExecutor(4) as threads:
        jobs = threads.map(lambda name: place.submit(name, written=together.wait), "abcd")
        media = [job.input["media"] for job in jobs]

    assert all(each == media[0] for each in media)
    assert list(place.files.ids()) == list(place.rows())
    assert place.files.read(media[0]["image"]["artifact"]) == b"an image"


# A sweep removes the very image that comes again: at no moment does its job lose it.


def test_an_image_that_is_removed_after_it_was_looked_for_is_there(place: Place) -> None:
    place.expire()
    place.submit("a", written=place.images.sweep)

    assert place.kept() == {"image"}


def test_an_image_that_comes_between_the_removal_of_row_and_file_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.expire()
    remove_files = place.images._remove_files

    def submit_first(ids: set[str]) -> None:
        assert place.rows() == {}
        place.submit("a")
        remove_files(ids)

    monkeypatch.setattr(place.images, "_remove_files", submit_first)
    place.images.sweep()

    assert place.kept() == {"image"}


def test_a_sweep_waits_for_an_image_that_is_being_placed(place: Place) -> None:
    place.expire()
    sweep = threading.Thread(target=place.images.sweep)

    def sweep_meanwhile() -> None:
        sweep.start()
        sweep.join(0.2)
        assert sweep.is_alive()

    place.submit("a", placed=sweep_meanwhile)
    sweep.join()

    assert place.kept() == {"image"}


def test_an_image_is_there_for_every_job_that_was_accepted(place: Place) -> None:
    """Sweeps without end, for which every image is over that no job needs."""
    is_over = threading.Event()

    def sweep() -> None:
        while not is_over.is_set():
            place.sweep_after(UNWANTED_LIFETIME_S)

    def submit_and_cancel(name: str) -> None:
        for number in range(40):
            job = place.submit(f"{name} {number}")
            assert place.files.read(job.input["media"]["image"]["artifact"]) == b"an image"
            place.prepare(job.id)
            claimed = place.store.job(job.id).input_refs
            assert claimed is not None
            assert place.files.read(claimed["image"]) == b"rgb"
            place.store.request_cancel(job.id)

    with ThreadPoolExecutor(3) as threads:
        sweeping = threads.submit(sweep)
        for done in [threads.submit(submit_and_cancel, name) for name in "ab"]:
            done.result()
        is_over.set()
        sweeping.result()
    place.sweep_after(1.0)
    place.sweep_after(UNWANTED_LIFETIME_S)
    assert place.kept() == set()


# A crash leaves at most a file without a row, which the next start sets aside.


def test_a_submit_that_is_cut_short_leaves_a_file_and_no_row(place: Place) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.submit("a", placed=die)
    assert (place.rows(), len(list(place.files.ids()))) == ({}, 1)

    place.start_again()
    assert place.kept() == set()


def test_a_sweep_that_is_cut_short_leaves_a_file_and_no_row(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.submit("a")
    place.store.request_cancel("a")
    place.sweep_after(1.0)

    def die(*_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(place.files, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            place.sweep_after(UNWANTED_LIFETIME_S)
    assert (place.rows(), len(list(place.files.ids()))) == ({}, 1)

    place.start_again()
    assert place.kept() == set()


# What becomes of a job whose image was deleted from the disk.


def delete_files(folder: Path, kind: str) -> int:
    found = list((folder / "data" / "files").glob(f"*/{kind}-*"))
    for file in found:
        file.unlink()
    return len(found)


async def paused(client: httpx.AsyncClient, *requests: dict[str, Any]) -> list[str]:
    """Jobs that have their pictures and wait."""
    await client.post("/admin/queue/pause")
    jobs = [await submit(client, **request) for request in requests]
    await until_prepared(client, *jobs)
    return jobs


async def test_pixels_that_were_deleted_are_made_anew(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        (job,) = await paused(client, {})
        assert delete_files(tmp_path, "pixels") == 1
        await client.post("/admin/queue/resume")

        assert (await result_of(client, job)).status_code == 200
        assert len(list((tmp_path / "data" / "files").glob("*/pixels-*"))) == 1


async def test_a_job_whose_image_is_lost_says_so(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        (job,) = await paused(client, {})
        assert delete_files(tmp_path, "pixels") + delete_files(tmp_path, "image") == 2
        await client.post("/admin/queue/resume")

        answer = await result_of(client, job)
        assert answer.status_code == 500
        assert answer.json() == {
            "detail": "The server has lost the file of this request: send it again.",
            "error_type": "internal_error",
        }
        again = await submit(client)
        assert (await result_of(client, again)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "fields"), [({"x-fal-store-io": "0"}, {}), ({}, {"sync_mode": True})]
)
async def test_what_is_not_to_be_kept_leaves_no_image(
    tmp_path: Path, headers: dict[str, str], fields: dict[str, Any]
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        images: ImageStore = app_of(client).state.services.images
        request = request_of(image_url=data_uri(picture(colour="plum")), **fields)
        path = "/run/fal-ai/cosmos-predict-2.5/image-to-video"
        answer = await client.post(path, json=request, headers=headers)
        assert answer.status_code == 200
        await asyncio.to_thread(images.sweep)
        database = tmp_path / "data" / "jobs.sqlite3"
        times = dict(sql(database, "SELECT kind, expires_at FROM artifacts"))
        assert None not in (times["image"], times["pixels"])
        sql(database, "UPDATE artifacts SET expires_at = expires_at - ?", UNWANTED_LIFETIME_S)
        await asyncio.to_thread(images.sweep)

    kept = list((tmp_path / "data" / "files").glob("*/*"))
    assert [file.name for file in kept if file.name.startswith(("image-", "pixels-"))] == []
