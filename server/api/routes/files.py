"""Files: videos and uploads. Whoever has the URL may read it, as at fal, if nobody chose otherwise.

Nothing here is to be trusted by a browser: only pictures and videos are shown, and no page that
somebody uploaded as a file runs or looks as if it came from this server.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse

from server.api.dependencies import ServicesDep, caller_of
from server.errors import UnknownFile
from server.files.access import ReadPermission
from server.files.content_types import HEAD_BYTES, is_shown
from server.files.public import PublicFile

MAX_CACHE_S = 365 * 24 * 3600

router = APIRouter(prefix="/files")


async def _permit_of(request: Request, file_id: str, services: ServicesDep) -> ReadPermission:
    """What the request may read, by its key or by its URL; before anything is looked for.

    Raises:
        Unauthorized: it has no key, where one is needed.
        FileUrlRefused: its URL is not good, where it has to be signed.
    """
    if services.file_access.needs_key:
        return services.file_access.by_caller(await caller_of(request, services))
    return services.file_access.by_url(file_id, request.url.query)


@router.api_route("/{file_id}/{name}", methods=["GET", "HEAD"])
async def file(
    file_id: str,
    name: str,
    services: ServicesDep,
    permit: Annotated[ReadPermission, Depends(_permit_of)],
) -> Response:
    """A file, or the parts that a Range header names."""
    found = await asyncio.to_thread(services.public_files.find, file_id, name, permit)
    path = services.files.path(found.id)
    head, stat = await asyncio.to_thread(_look_at, path)
    return FileResponse(
        path,
        stat_result=stat,
        filename=found.name,
        content_disposition_type=("inline" if is_shown(found.content_type, head) else "attachment"),
        headers=_headers(found, permit),
    )


def _look_at(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES), os.fstat(file.fileno())
    except FileNotFoundError as error:
        # Its time ended just after its row was read.
        raise UnknownFile from error


def _headers(file: PublicFile, permit: ReadPermission) -> dict[str, str]:
    return {
        # As it was given: no charset is made up for a text.
        "content-type": file.content_type,
        "etag": f'"{file.sha256}"',
        "cache-control": _caching(file, permit),
        "x-content-type-options": "nosniff",
        "content-security-policy": (
            "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; "
            "style-src 'unsafe-inline'"
        ),
    }


def _caching(file: PublicFile, permit: ReadPermission) -> str:
    if permit.owners is not None:
        # The next to ask for it in this browser may have another key.
        return "private, no-cache"
    ends = [end for end in (file.expires_at, permit.ends_at) if end is not None]
    cached_s = min([MAX_CACHE_S, *(max(0, int(end - time.time())) for end in ends)])
    return f"private, max-age={cached_s}, immutable"
