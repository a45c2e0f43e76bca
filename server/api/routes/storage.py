"""The part of `rest.fal.ai` where uploads begin: a token for fal's file host, or an URL to put to.

Both point to this server's own files service, under the address that the caller used.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, StringConstraints

from server.api.dependencies import (
    BaseUrlDep,
    JsonDep,
    Services,
    ServicesDep,
    UploaderDep,
    has_room,
)
from server.api.routes.uploads import lifetime_asked
from server.auth.tokens import MAX_TOKEN_SECONDS, TokenScope
from server.fal.schemas import read_as
from server.fal.urls import Service, url_for
from server.files.content_types import content_type_of, file_name_of
from server.files.upload_store import NewUpload, Upload
from server.keys import Scope

router = APIRouter(prefix="/rest/storage")


class UploadRequest(BaseModel):
    """The file that is to come."""

    model_config = ConfigDict(frozen=True)

    file_name: Annotated[str, StringConstraints(max_length=1000)] = ""
    content_type: str | None = None


@router.post("/auth/token")
async def token(services: ServicesDep, caller: UploaderDep, base_url: BaseUrlDep) -> Response:
    """Lend the caller's key to uploads, for an hour."""
    # Clients use a token until then: a minute early, so that none ends on its way.
    expires_at = datetime.now(UTC) + timedelta(seconds=MAX_TOKEN_SECONDS - 60)
    text = await services.auth.issue_token(caller, TokenScope(Scope.FILES), MAX_TOKEN_SECONDS)
    body = {
        "token": text,
        "token_type": "Bearer",
        # The client appends the path, with its `/files`.
        "base_url": url_for(base_url, Service.FILES, "").removesuffix("/files"),
        # With the offset spelt out: older Pythons do not read a Z.
        "expires_at": expires_at.isoformat(timespec="seconds"),
    }
    return JSONResponse(body, headers={"cache-control": "no-store"})


@router.post("/upload/initiate", dependencies=[Depends(has_room)])
async def initiate(
    request: Request,
    services: ServicesDep,
    caller: UploaderDep,
    base_url: BaseUrlDep,
    body: JsonDep,
) -> Response:
    """Begin an upload that comes in one PUT."""
    new = _new_upload(request, caller.key_id, body)
    upload = await services.uploads.begin(new, in_parts=False)
    return _urls(services, base_url, upload)


@router.post("/upload/initiate-multipart", dependencies=[Depends(has_room)])
async def initiate_multipart(
    request: Request,
    services: ServicesDep,
    caller: UploaderDep,
    base_url: BaseUrlDep,
    body: JsonDep,
) -> Response:
    """Begin an upload that comes in parts."""
    new = _new_upload(request, caller.key_id, body)
    upload = await services.uploads.begin(new, in_parts=True)
    return _urls(services, base_url, upload)


def _new_upload(request: Request, key_id: str | None, body: bytes) -> NewUpload:
    wanted = read_as(UploadRequest, body)
    content_type = content_type_of(wanted.content_type)
    return NewUpload(
        key_id=key_id,
        file_name=file_name_of(wanted.file_name, content_type),
        content_type=content_type,
        lifetime_s=lifetime_asked(request),
    )


def _urls(services: Services, base_url: str, upload: Upload) -> Response:
    urls = {
        "upload_url": url_for(base_url, Service.FILES, f"/upload/{upload.id}"),
        "file_url": services.file_links.url(base_url, upload.file_id, upload.file_name),
    }
    return JSONResponse(urls, headers={"cache-control": "no-store"})
