"""The part of `rest.fal.ai` where uploads begin: a token for fal's file host, or an URL to put to.

Both point to this server's own files service, under the address that the caller used.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints, WithJsonSchema
from typing_extensions import TypedDict

from server.api.dependencies import BaseUrlDep, JsonDep, ServicesDep, UploaderDep, has_room
from server.api.openapi.parts import LIFECYCLE, json_body
from server.api.routes.uploads import new_upload
from server.auth.tokens import MAX_TOKEN_SECONDS, TokenScope
from server.fal.schemas import read_as
from server.fal.urls import Service, url_for
from server.keys import Scope

router = APIRouter(prefix="/rest/storage", tags=[Service.REST])


class UploadRequest(BaseModel):
    """The file that is to come."""

    model_config = ConfigDict(frozen=True)

    file_name: Annotated[str, StringConstraints(max_length=1000)] = ""
    content_type: str | None = None


_UPLOAD = {"parameters": [LIFECYCLE], "requestBody": json_body(UploadRequest)}


class UploadToken(TypedDict):
    """A token for uploads."""

    token: str
    token_type: str
    base_url: str
    expires_at: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class UploadUrls(TypedDict):
    """Where an upload is put, and where it can be read."""

    upload_url: str
    file_url: str


@router.post("/auth/token", response_description="A token for an hour.")
async def storage_token(
    services: ServicesDep, caller: UploaderDep, base_url: BaseUrlDep, response: Response
) -> UploadToken:
    """A token for uploads, which fal's Python client asks for."""
    response.headers["cache-control"] = "no-store"
    # Clients use a token until then: a minute early, so that none ends on its way.
    expires_at = datetime.now(UTC) + timedelta(seconds=MAX_TOKEN_SECONDS - 60)
    text = await services.auth.issue_token(caller, TokenScope(Scope.FILES), MAX_TOKEN_SECONDS)
    return {
        "token": text,
        "token_type": "Bearer",
        # The client appends the path, with its `/files`.
        "base_url": url_for(base_url, Service.FILES, "").removesuffix("/files"),
        # With the offset spelt out: older Pythons do not read a Z.
        "expires_at": expires_at.isoformat(timespec="seconds"),
    }


@router.post(
    "/upload/initiate",
    dependencies=[Depends(has_room)],
    name="initiate_upload",
    description="Begin an upload that comes in one PUT.",
    response_description="Where to put it.",
    openapi_extra=_UPLOAD,
)
@router.post(
    "/upload/initiate-multipart",
    dependencies=[Depends(has_room)],
    name="initiate_multipart_upload",
    description="Begin an upload that comes in parts.",
    response_description="Where to put the parts.",
    openapi_extra=_UPLOAD,
)
async def initiate(
    request: Request,
    services: ServicesDep,
    caller: UploaderDep,
    base_url: BaseUrlDep,
    body: JsonDep,
    response: Response,
) -> UploadUrls:
    """Give out the URLs of a file that is to come."""
    wanted = read_as(UploadRequest, body)
    new = new_upload(request, caller.key_id, wanted.file_name, wanted.content_type)
    in_parts = request.url.path.endswith("-multipart")
    upload = await services.uploads.begin(new, in_parts=in_parts)
    response.headers["cache-control"] = "no-store"
    return {
        "upload_url": url_for(base_url, Service.FILES, f"/upload/{upload.id}"),
        "file_url": services.file_links.url(base_url, upload.file_id, upload.file_name),
    }
