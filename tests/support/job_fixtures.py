"""Jobs in tables of their own, at a time that the test sets."""

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from server.db.database import Database
from server.dispatch.artifacts import keep
from server.files.local import LocalFiles
from server.files.quota import StorageQuota
from server.files.s3 import S3Files
from server.files.store import FileStore
from server.files.upload_store import UploadStore
from server.files.uploads import Uploads
from server.jobs.retention import Retention
from server.jobs.store import JobStore
from server.models import Job, JobError, NewJob, StoredArtifact
from server.workers.messages import Artifact

Where = Path | SecretStr
"""A file of SQLite, or the URL of a database of PostgreSQL."""

FAILURE = JobError(500, {"detail": "The worker died.", "error_type": "runner_server_error"})
INVALID = JobError(422, {"detail": [{"loc": ["body", "prompt"], "type": "missing"}]})


def new_job(job_id: str, **changes: Any) -> NewJob:
    plain: dict[str, Any] = {
        "endpoint": "fal-ai/cosmos-predict-2.5/image-to-video",
        "base_url": "http://localhost:8000",
        "key_id": None,
        "input": {"media": {}, "sync_mode": False, "spec": {"prompt": "a secret"}},
        "tier": "exact",
    }
    return NewJob(id=job_id, **(plain | changes))


def artifact(artifact_id: str, kind: str = "video", size: int = 7) -> StoredArtifact:
    """The row of a file that is not there."""
    return StoredArtifact(
        id=artifact_id, kind=kind, name=kind, content_type="x/y", size=size, sha256="def"
    )


def sql(where: Where, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Execute a statement as another process would, and commit; its rows."""
    if isinstance(where, SecretStr):
        address = where.get_secret_value().replace("+psycopg", "")
        with psycopg.connect(address) as postgres:
            ran = postgres.execute(statement.replace("?", "%s").encode(), values or None)
            return ran.fetchall() if ran.description else []
    with closing(sqlite3.connect(where)) as db, db:
        return db.execute(statement, values).fetchall()


def files_beside(where: Where, folder: Path) -> LocalFiles | S3Files:
    """The files of a server whose database is there: in the folder, or in S3 beside PostgreSQL."""
    if isinstance(where, Path):
        return LocalFiles(folder / "files")
    return S3Files.at(f"s3://cosmos/{secrets.token_hex(8)}", scratch=folder)


def let_leases_lapse(where: Where) -> None:
    """Be at the end of every lease, as after a minute in which nobody renewed one."""
    for table in ("jobs", "webhooks"):
        sql(where, f"UPDATE {table} SET lease_until = 0 WHERE lease_until IS NOT NULL")


def submit(store: JobStore, job_id: str, *, limit: int = 100, **changes: Any) -> Job:
    """A job that can be claimed."""
    job = store.submit(new_job(job_id, **changes), queue_limit=limit)
    store.set_inputs(job_id, {})
    return job


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Place:
    """The tables and files of a server, without the server."""

    def __init__(
        self,
        folder: Path,
        where: Where | None = None,
        *,
        keep_s: float | None = None,
        files: FileStore | None = None,
    ) -> None:
        self.path = folder / "jobs.sqlite3"
        self.where = where or self.path
        self.clock = Clock()
        self.database = Database(self.where)
        self.files = files or files_beside(self.where, folder)
        self.store = JobStore(self.database, owner="this server", now=self.clock)
        self.was_told = 0
        self.retention = Retention(
            self.database, self.files, gone=self._tell, keep_s=keep_s, now=self.clock
        )

    @property
    def folder(self) -> LocalFiles:
        """Its files, which are in a folder."""
        assert isinstance(self.files, LocalFiles)
        return self.files

    def _tell(self) -> None:
        self.was_told += 1

    def submit(self, job_id: str, *, limit: int = 100, **changes: Any) -> Job:
        return submit(self.store, job_id, limit=limit, **changes)

    def claim(self) -> Job:
        job = self.store.claim("cpu")
        assert job is not None
        return job

    def finish(self, job: Job) -> StoredArtifact:
        """End a job with a video, whose file is there."""
        incoming = self.files.receive()
        incoming.write(b"video")
        described = Artifact(
            kind="video",
            name="video.mp4",
            content_type="video/mp4",
            size=5,
            sha256=incoming.sha256,
            width=96,
            height=64,
            frames=9,
        )
        video = keep(incoming, described)
        result = {"video": {"artifact": video.id}, "seed": 3}
        assert self.store.finish(job.id, job.attempt, result=result, artifacts=[video])
        return video

    def made(self, job_id: str, **changes: Any) -> tuple[Job, StoredArtifact]:
        """A job that has succeeded, and its video."""
        self.submit(job_id, **changes)
        video = self.finish(self.claim())
        return self.store.job(job_id), video

    def uploads(self, **options: Any) -> Uploads:
        """Of 100 bytes at most."""
        quota = StorageQuota(self.database, max_bytes=100)
        store = UploadStore(self.database, now=self.clock, **options)
        return Uploads(store, self.files, quota, max_size=100)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return sql(self.where, query)


def is_webp(file: Path) -> bool:
    """Whether it is a thumbnail: no other file of a server is a WebP, where none was sent to it."""
    return file.read_bytes()[8:12] == b"WEBP"
