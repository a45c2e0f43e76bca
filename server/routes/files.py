"""Files: videos and uploads. Whoever has the URL may read it, as at fal.

Nothing here is to be trusted by a browser: only pictures and videos are shown, and no page that
somebody uploaded as a file runs or looks as if it came from this server.
"""

import asyncio
import os
import time
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from server.content_types import HEAD_BYTES, is_shown
from server.errors import UnknownFile
from server.public_files import PublicFile
from server.services import ServicesDep

MAX_CACHE_S = 365 * 24 * 3600

router = APIRouter(prefix="/files")


@router.api_route("/{file_id}/{name}", methods=["GET", "HEAD"])
async def file(file_id: str, name: str, services: ServicesDep) -> Response:
    """A file, or the parts that a Range header names."""
    found = await asyncio.to_thread(services.public_files.find, file_id, name)
    path = services.files.path(found.id)
    head, stat = await asyncio.to_thread(_look_at, path)
    return FileResponse(
        path,
        stat_result=stat,
        filename=found.name,
        content_disposition_type=("inline" if is_shown(found.content_type, head) else "attachment"),
        headers=_headers(found),
    )


def _look_at(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES), os.fstat(file.fileno())
    except FileNotFoundError as error:
        # Its time ended just after its row was read.
        raise UnknownFile from error


def _headers(file: PublicFile) -> dict[str, str]:
    cached_s = MAX_CACHE_S
    if file.expires_at is not None:
        cached_s = min(cached_s, max(0, int(file.expires_at - time.time())))
    return {
        # As it was given: no charset is made up for a text.
        "content-type": file.content_type,
        "etag": f'"{file.sha256}"',
        "cache-control": f"private, max-age={cached_s}, immutable",
        "x-content-type-options": "nosniff",
        "content-security-policy": (
            "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; "
            "style-src 'unsafe-inline'"
        ),
    }
