"""The files of results: whoever has the URL may read it, as at fal."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from server.errors import UnknownFile
from server.intake import PUBLIC_KINDS
from server.services import ServicesDep

router = APIRouter(prefix="/files")


@router.api_route("/{file_id}/{name}", methods=["GET", "HEAD"])
async def file(file_id: str, name: str, services: ServicesDep) -> Response:
    """A file, or the parts that a Range header names."""
    artifact = await asyncio.to_thread(services.store.artifact, file_id)
    if artifact is None or artifact.kind not in PUBLIC_KINDS or artifact.name != name:
        raise UnknownFile
    return FileResponse(
        services.files.path(artifact.id),
        media_type=artifact.content_type,
        headers={
            "x-content-type-options": "nosniff",
            "cache-control": "private, max-age=31536000, immutable",
        },
    )
