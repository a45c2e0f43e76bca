"""Who may read the files of which rows, and what a job may take for its picture."""

import pytest
from job_fixtures import Place, sql

from server.auth.authenticator import Caller
from server.config.setting_types import FilesAuth
from server.errors import FileUrlRefused, UnknownFile
from server.files.access import READ_ALL, FileAccess
from server.files.links import FileLinks, LinkSigner
from server.files.public import PublicFiles
from server.files.upload_store import NewUpload, UploadStore
from server.keys import CALLER_SCOPES, Scope
from server.models import FETCHED_LIFETIME_S, UNFETCHED_LIFETIME_S, Job, StoredArtifact

MINE, YOURS = Caller("mine", CALLER_SCOPES), Caller("yours", CALLER_SCOPES)
OPERATOR = Caller("operator", frozenset({Scope.ADMIN}))
HOUR_S = 3600


class Reading:
    """Who reads the files of a place."""

    def __init__(self, place: Place, kind: FilesAuth) -> None:
        signer = (
            LinkSigner(b"secret", seconds=HOUR_S, now=place.clock) if kind == "signed" else None
        )
        self.access = FileAccess(kind, signer, now=place.clock)
        self.links = FileLinks(signer)
        self.files = PublicFiles(place.database, access=self.access, now=place.clock)

    def opens(self, caller: Caller, file: StoredArtifact) -> bool:
        try:
            return self.files.find(file.id, file.name, self.access.by_caller(caller)).id == file.id
        except UnknownFile:
            return False

    def readers(self, file: StoredArtifact) -> list[str | None]:
        return [caller.key_id for caller in (MINE, YOURS, OPERATOR) if self.opens(caller, file)]

    def is_used(self, job: Job, url: str) -> bool:
        return self.files.by_url(url, job) is not None


def forget(place: Place, columns: str) -> None:
    """Let the videos be as an earlier release wrote them, or lost."""
    sql(place.where, f"UPDATE artifacts SET {columns}")


def uploaded(place: Place, key_id: str | None) -> StoredArtifact:
    file = StoredArtifact(
        id="0" * 32, kind="upload", name="car.png", content_type="image/png", size=1, sha256="a"
    )
    new = NewUpload(key_id=key_id, file_name="car.png", content_type="image/png")
    UploadStore(place.database).add_file(file, new, place=lambda: None)
    return file


# Whose a file is.


def test_a_video_belongs_to_the_key_of_its_job_and_an_upload_to_its_own(place: Place) -> None:
    _, video = place.made("a", key_id="mine")
    reading = Reading(place, "key")

    assert place.rows("SELECT key_id FROM artifacts WHERE kind = 'video'") == [("mine",)]
    assert reading.readers(video) == ["mine"]
    assert reading.readers(uploaded(place, "yours")) == ["yours"]


def test_a_video_that_outlives_its_job_keeps_its_owner(place: Place) -> None:
    job, video = place.made("a", key_id="mine", store_io=False)
    place.retention.fetched(job)
    place.clock.now += FETCHED_LIFETIME_S
    place.retention.sweep()

    assert place.rows("SELECT job_id, key_id FROM artifacts") == [(None, "mine")]
    assert Reading(place, "key").readers(video) == ["mine"]


def test_a_video_of_an_earlier_release_is_its_jobs_and_stays_so_without_it(place: Place) -> None:
    _, video = place.made("a", key_id="mine", store_io=False)
    forget(place, "key_id = NULL")
    reading = Reading(place, "key")
    assert reading.readers(video) == ["mine"]

    place.clock.now += UNFETCHED_LIFETIME_S
    place.retention.sweep()

    assert place.rows("SELECT count(*) FROM jobs") == [(0,)]
    assert reading.readers(video) == ["mine"]


def test_a_file_without_an_owner_is_for_operators_alone(place: Place) -> None:
    _, video = place.made("a", key_id="mine")
    forget(place, "key_id = NULL, job_id = NULL")

    assert Reading(place, "key").readers(video) == ["operator"]
    assert Reading(place, "key").readers(uploaded(place, None)) == ["operator"]


def test_without_a_choice_all_is_everybodys(place: Place) -> None:
    _, video = place.made("a", key_id="mine")
    job = place.submit("b", key_id="yours")
    reading = Reading(place, "public")

    assert reading.access.by_url(video.id, "") == READ_ALL
    assert reading.is_used(job, reading.links.url(job.base_url, video.id, video.name))


# What a job may take.


def test_with_keys_a_job_takes_the_files_of_its_own_key(place: Place) -> None:
    made, video = place.made("a", key_id="mine")
    reading = Reading(place, "key")
    url = reading.links.of_video(made, video)

    assert reading.is_used(place.submit("b", key_id="mine"), url)
    with pytest.raises(UnknownFile):
        reading.is_used(place.submit("c", key_id="yours"), url)


def test_with_signatures_a_job_takes_what_is_signed_and_what_is_its_own(place: Place) -> None:
    made, video = place.made("a", key_id="mine")
    reading = Reading(place, "signed")
    signed = reading.links.of_video(made, video)
    bare = signed.partition("?")[0]
    mine, yours = place.submit("b", key_id="mine"), place.submit("c", key_id="yours")

    assert reading.is_used(yours, signed)
    assert reading.is_used(mine, bare)
    for url in (bare, bare.replace(video.id, "1" * 32)):
        with pytest.raises(FileUrlRefused, match="needs the signature"):
            reading.is_used(yours, url)
    with pytest.raises(UnknownFile):
        reading.is_used(yours, f"{mine.base_url}/files/x")


def test_where_nobody_has_a_key_nothing_is_anybodys_own(place: Place) -> None:
    made, video = place.made("a")
    reading = Reading(place, "signed")
    signed = reading.links.of_video(made, video)
    job = place.submit("b")

    assert reading.is_used(job, signed)
    with pytest.raises(FileUrlRefused, match="needs the signature"):
        reading.is_used(job, signed.partition("?")[0])


def test_a_url_that_was_good_at_the_submit_is_good_for_a_job_that_waits(place: Place) -> None:
    made, video = place.made("a", key_id="mine")
    reading = Reading(place, "signed")
    url = reading.links.of_video(made, video)
    early = place.submit("b", key_id="yours")
    place.clock.now += HOUR_S
    late = place.submit("c", key_id="yours")

    assert reading.is_used(early, url)
    with pytest.raises(FileUrlRefused, match="time of this URL is over"):
        reading.is_used(late, url)
