"""The files that have a URL: videos that were made, and what callers uploaded.

This server's URLs are known by their scheme, host and prefix and are never fetched over HTTP: the
file is looked up, and may be gone, or not for everybody: `server.files.access` says for whom.
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from sqlalchemy import func, or_, select, true

from server.config.settings import Settings
from server.db import tables
from server.db.database import Database
from server.errors import UnknownFile
from server.fal.urls import FAL_HOSTS, Service, url_for
from server.files.access import FileAccess, ReadPermission
from server.hosts import DEFAULT_PORTS, name_of
from server.models import Job

PUBLIC_KINDS = ("video", "thumbnail", "upload")

_FAL_FILE_HOSTS = {host for host, service in FAL_HOSTS.items() if service is Service.FILES}
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class PublicFile:
    """A file as its row describes it. `size` is in bytes, `expires_at` in Unix seconds.

    `owner` is the id of a key, or None.
    """

    id: str
    name: str
    content_type: str
    size: int
    sha256: str
    expires_at: float | None
    owner: str | None


class PublicFiles:
    """Finds the files of one server, which its callers know under `base_urls`, and under fal's."""

    def __init__(
        self,
        database: Database,
        *,
        access: FileAccess,
        base_urls: Iterable[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._access = access
        self._base_urls = tuple(base_urls)
        self._now = now

    @classmethod
    def from_settings(
        cls, settings: Settings, database: Database, access: FileAccess, now: Callable[[], float]
    ) -> "PublicFiles":
        """The files of a server with these settings."""
        return cls(database, access=access, base_urls=base_urls_of(settings), now=now)

    def find(self, file_id: str, name: str | None, permit: ReadPermission) -> PublicFile:
        """The file of that id, under its own name, or under any if that is None.

        Raises:
            UnknownFile, or the permit's refusal: there is none, its time is over, or it is not one
                that may be read.
        """
        files = tables.artifacts.c
        # An earlier release did not write whose a video is: its job knows.
        owner = func.coalesce(files.key_id, tables.jobs.c.key_id)
        query = (
            select(
                files.id,
                files.name,
                files.content_type,
                files.size,
                files.sha256,
                files.expires_at,
                owner.label("owner"),
            )
            .outerjoin_from(tables.artifacts, tables.jobs, files.job_id == tables.jobs.c.id)
            .where(
                files.id == file_id,
                true() if name is None else files.name == name,
                files.kind.in_(PUBLIC_KINDS),
                or_(files.expires_at.is_(None), files.expires_at > self._now()),
            )
        )
        with self._database.read() as db:
            row = db.execute(query).one_or_none()
        file = None if row is None else PublicFile(**row._mapping)
        if file is None or not permit.allows(file.owner):
            raise permit.refusal()
        return file

    def by_url(self, url: str, job: Job) -> PublicFile | None:
        """The file that a URL in the job's request names, None if the URL is another server's.

        Raises:
            UnknownFile, FileUrlRefused: the URL is ours, and there is no such file, no longer, or
                not for this job.
        """
        segments = own_file(url, (job.base_url, *self._base_urls))
        if segments is None:
            return None
        if len(segments) != 2:
            raise UnknownFile
        file_id, name = segments
        return self.find(file_id, name, self._access.by_job(job, file_id, urlsplit(url).query))


def base_urls_of(settings: Settings) -> list[str]:
    """How callers reach a server with these settings, but for names that only they know."""
    if settings.public_url is not None:
        return [settings.public_url]
    ports = [("http", settings.port), ("https", settings.tls_port)]
    names = {"localhost", "127.0.0.1", "[::1]", *settings.allowed_hosts}
    return [f"{scheme}://{name}:{port}" for scheme, port in ports if port for name in names]


def own_file(url: str, base_urls: Iterable[str]) -> list[str] | None:
    """The path of a URL within the files service; None if the URL is not ours.

    On fal's file hosts there are files of fal's, too: only those with an id like ours are ours.
    """
    given = _split(url)
    if given is None:
        return None
    if name_of(given.netloc) in _FAL_FILE_HOSTS:
        segments = _below(given, "/files/")
        is_ours = len(segments) == 2 and _ID.fullmatch(segments[0])
        return segments if is_ours else None
    for base_url in base_urls:
        prefix = _split(url_for(base_url, Service.FILES, "/"))
        if prefix is not None and _origin(prefix) == _origin(given):
            segments = _below(given, prefix.path)
            if segments:
                return segments
    return None


def _split(url: str) -> SplitResult | None:
    """An http or https URL in its parts, None if it is none."""
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in DEFAULT_PORTS and parts.port != 0
    except ValueError:
        return None
    return parts if is_http else None


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return parts.scheme, name_of(parts.netloc), port


def _below(parts: SplitResult, prefix: str) -> list[str]:
    """The segments below a prefix, decoded; none if the path is not below it."""
    if not parts.path.startswith(prefix):
        return []
    return [unquote(segment) for segment in parts.path.removeprefix(prefix).split("/")]
