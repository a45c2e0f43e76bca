"""The picture or clip that a request begins with, small, as its callers see it once it is prepared.

They may have given it by a URL, which a page does not open by itself: its owner would learn of it.
"""

import io
from typing import NamedTuple

from pipeline.spec import Pixels, pictures_in
from server.errors import FilesAway
from server.fal.endpoints import ENDPOINTS
from server.files.store import FileStore
from server.jobs.store import JobStore
from server.models import Job

_MAX_SIDE = 640
_QUALITY = 80


class PreparedMedium(NamedTuple):
    """A WebP file of what the request has in a field: the picture, or the clip's last frame."""

    field: str
    data: bytes


def prepared_media(job: Job, store: JobStore, files: FileStore) -> list[PreparedMedium]:
    """What the job begins with, as far as it is still here; blocks."""
    fields = ENDPOINTS[job.endpoint].media_fields
    media = []
    for name, artifact_id in (job.input_refs or {}).items():
        picture = _last_of(artifact_id, store, files)
        if picture is not None:
            media.append(PreparedMedium(fields[name], _small(picture)))
    return media


def _last_of(artifact_id: str, store: JobStore, files: FileStore) -> Pixels | None:
    row = store.artifact(artifact_id)
    if row is None or row.width is None or row.height is None:
        return None
    try:
        return pictures_in(files.read(artifact_id), row.width, row.height)[-1]
    except (FileNotFoundError, FilesAway):
        # The rest of the stream is answered without it.
        return None


def _small(picture: Pixels) -> bytes:
    # Not above: a server starts without Pillow.
    from PIL import Image

    shown = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    shown.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    shown.save(file, "WEBP", quality=_QUALITY)
    return file.getvalue()
