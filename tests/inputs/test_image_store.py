"""Pictures stay while a job that is not done wants them, and go soon after, row and file."""

import asyncio
import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from queue_calls import result_of, submit, until_prepared
from schedules import SteppedDatabase, SteppedFiles, SteppedLock, Turns, Work, every_order
from servers import data_uri, picture, request_of, serving, settings_in

from pipeline.spec import Pixels
from server.errors import QueueFull
from server.files.upload_store import UploadStore
from server.files.uploads import Uploads
from server.inputs.image_store import UNWANTED_LIFETIME_S, ImageStore
from server.jobs.store import JobStore
from server.models import Job, JobError, NewJob, StoredArtifact

FAILURE = JobError(500, {"detail": "The worker died.", "error_type": "runner_server_error"})


class Place:
    """The tables and files of a server, with steps that a test may put in any order."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.turns = Turns()
        self.path = folder / "jobs.sqlite3"
        self.database = SteppedDatabase(self.path, self.turns)
        self.files = SteppedFiles(folder / "files", self.turns)
        self.store = JobStore(self.database, owner="test", now=lambda: self.now)
        self.pictures = ImageStore(self.database, self.files, now=lambda: self.now)
        monkeypatch.setattr(self.pictures, "_lock", SteppedLock(self.turns))

    def submit(self, job_id: str, data: bytes = b"a picture", *, limit: int = 1000) -> Job:
        """Take a request in that comes with its picture, as `Submissions` does."""
        with self.pictures.in_hand() as hand:
            kept = hand.keep_sent(data)
            media = {"image": {"artifact": kept.id}}
            new = NewJob(
                id=job_id,
                endpoint="e",
                base_url="b",
                key_id=None,
                input={"media": media, "sync_mode": False},
                tier=None,
            )
            return self.store.submit(new, queue_limit=limit, artifacts=[kept])

    def prepare(self, job_id: str, rgb: bytes = b"rgb") -> StoredArtifact:
        """Take its picture in, as `InputPreparer` does."""
        with self.pictures.in_hand() as hand:
            kept = hand.keep_pixels(Pixels(1, 1, rgb))
            self.store.set_inputs(job_id, {"image": kept})
            return kept

    def sweep_after(self, seconds: float) -> None:
        self.now += seconds
        self.pictures.sweep()

    def rows(self) -> dict[str, float | None]:
        with closing(sqlite3.connect(self.path)) as db:
            return dict(db.execute("SELECT id, expires_at FROM artifacts"))

    def kept(self) -> set[str]:
        """The pictures that are there, of which each must have both row and file."""
        files = set(self.files.ids())
        assert files == self.rows().keys()
        return {name.partition("-")[0] for name in files}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path, monkeypatch)
    yield place
    place.database.close()


def test_a_picture_stays_as_long_as_a_job_wants_it_and_ten_minutes_more(place: Place) -> None:
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


def test_a_picture_that_several_jobs_share_stays_for_the_last(place: Place) -> None:
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


def test_a_picture_that_comes_again_in_its_last_minutes_is_wanted_again(place: Place) -> None:
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


def test_pictures_of_an_earlier_release_go_as_others_do(place: Place) -> None:
    """There they stayed for ever, with no time."""
    for number in range(3):
        place.submit(str(number), b"%d" % number)
        place.store.request_cancel(str(number))
    assert set(place.rows().values()) == {None}
    place.sweep_after(1.0)
    place.sweep_after(UNWANTED_LIFETIME_S)

    assert place.kept() == set()


def test_a_picture_whose_request_was_refused_goes_with_the_next_sweep(place: Place) -> None:
    with pytest.raises(QueueFull):
        place.submit("a", limit=0)
    assert len(list(place.files.ids())) == 1
    place.sweep_after(0.0)

    assert place.kept() == set()


def test_a_picture_in_a_hand_is_left_alone(place: Place) -> None:
    with place.pictures.in_hand() as one, place.pictures.in_hand() as another:
        for hand in (one, another):
            kept = hand.keep_sent(b"x")
            hand.keep_sent(b"x")
        with suppress(QueueFull):
            place.submit("refused", b"x", limit=0)
        place.sweep_after(UNWANTED_LIFETIME_S)
        assert list(place.files.ids()) == [kept.id]
    place.sweep_after(0.0)
    assert place.kept() == set()


def test_a_sweep_that_is_cut_short_leaves_a_file_and_no_row(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.submit("a")
    place.store.request_cancel("a")
    place.sweep_after(1.0)

    def die(_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(place.files, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            place.sweep_after(UNWANTED_LIFETIME_S)
    assert (place.rows(), len(list(place.files.ids()))) == ({}, 1)

    # The next start:
    Uploads(UploadStore(place.database, max_bytes=1), place.files, max_size=1).sweep_orphans()
    assert place.kept() == set()


# The race: a sweep, and a request with the very picture that it is about to remove.


def is_safe(place: Place, artifact_id: str) -> bool:
    row = place.store.artifact(artifact_id)
    return row is not None and place.files.path(artifact_id).exists()


def clear(place: Place, job_id: str) -> None:
    """When the job is over, all that the try has left goes."""
    place.store.request_cancel(job_id)
    place.sweep_after(1.0)
    place.sweep_after(UNWANTED_LIFETIME_S)
    assert place.kept() == set()


@pytest.mark.parametrize("state", ["expired", "a file alone"])
def test_a_picture_is_there_for_every_job_that_was_accepted(place: Place, state: str) -> None:
    numbers = itertools.count()

    def prepared() -> tuple[Work, Work, Work]:
        number = next(numbers)
        job, old, data = f"job {number}", f"old {number}", b"%d" % number
        match state:
            case "expired":
                place.submit(old, data)
                place.store.request_cancel(old)
                place.sweep_after(1.0)
                place.now += UNWANTED_LIFETIME_S
            case "a file alone":
                with suppress(QueueFull):
                    place.submit(old, data, limit=0)

        def check() -> None:
            (artifact_id,) = (s["artifact"] for s in place.store.job(job).input["media"].values())
            assert is_safe(place, artifact_id)
            clear(place, job)

        return lambda: void(place.submit(job, data)), place.pictures.sweep, check

    assert every_order(place.turns, prepared) > 30


def test_pixels_are_there_for_every_job_that_may_be_claimed(place: Place) -> None:
    numbers = itertools.count()

    def prepared() -> tuple[Work, Work, Work]:
        job, old = f"job {(number := next(numbers))}", f"old {number}"
        for each in (old, job):
            place.submit(each)
        pixels = place.prepare(old)
        place.store.request_cancel(old)
        place.sweep_after(1.0)
        place.now += UNWANTED_LIFETIME_S

        def check() -> None:
            assert is_safe(place, pixels.id)
            claimed = place.store.claim("cpu")
            assert claimed is not None
            assert claimed.input_refs == {"image": pixels.id}
            place.store.finish(job, claimed.attempt, error=FAILURE)
            place.sweep_after(1.0)
            place.sweep_after(UNWANTED_LIFETIME_S)
            assert place.kept() == set()

        return lambda: void(place.prepare(job)), place.pictures.sweep, check

    assert every_order(place.turns, prepared) > 30


def test_a_request_that_is_refused_takes_no_picture_from_one_that_is_accepted(
    place: Place,
) -> None:
    numbers = itertools.count()

    def prepared() -> tuple[Work, Work, Work]:
        job, data = f"job {(number := next(numbers))}", b"%d" % number

        def refused() -> None:
            with suppress(QueueFull):
                place.submit("refused", data, limit=0)
            place.pictures.sweep()

        def check() -> None:
            (artifact_id,) = (s["artifact"] for s in place.store.job(job).input["media"].values())
            assert is_safe(place, artifact_id)
            clear(place, job)

        return lambda: void(place.submit(job, data)), refused, check

    assert every_order(place.turns, prepared) > 30


def void(_: object) -> None:
    """Work gives nothing."""


# What becomes of a job whose picture somebody has deleted from the disk.


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


async def test_a_job_whose_picture_is_lost_says_so(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        (job,) = await paused(client, {})
        assert delete_files(tmp_path, "pixels") + delete_files(tmp_path, "image") == 2
        await client.post("/admin/queue/resume")

        answer = await result_of(client, job)
        assert answer.status_code == 500
        assert answer.json() == {
            "detail": "The server has lost the picture of this request: send it again.",
            "error_type": "internal_error",
        }
        again = await submit(client)
        assert (await result_of(client, again)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "fields"), [({"x-fal-store-io": "0"}, {}), ({}, {"sync_mode": True})]
)
async def test_what_is_not_to_be_kept_leaves_no_picture(
    tmp_path: Path, headers: dict[str, str], fields: dict[str, Any]
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        transport: Any = client._transport  # of an app in this process
        pictures: ImageStore = transport.app.state.services.pictures
        request = request_of(image_url=data_uri(picture(colour="plum")), **fields)
        path = "/run/fal-ai/cosmos-predict-2.5/image-to-video"
        answer = await client.post(path, json=request, headers=headers)
        assert answer.status_code == 200
        await asyncio.to_thread(pictures.sweep)
        with closing(sqlite3.connect(tmp_path / "data" / "jobs.sqlite3")) as db:
            kinds = {kind for (kind,) in db.execute("SELECT kind FROM artifacts")}
            assert {"image", "pixels"} <= kinds
            times = db.execute("SELECT expires_at FROM artifacts WHERE kind != 'video'").fetchall()
            assert None not in [time for (time,) in times]
            db.execute("UPDATE artifacts SET expires_at = expires_at - ?", [UNWANTED_LIFETIME_S])
            db.commit()
        await asyncio.to_thread(pictures.sweep)

    kept = list((tmp_path / "data" / "files").glob("*/*"))
    assert [file.name for file in kept if file.name.startswith(("image-", "pixels-"))] == []
