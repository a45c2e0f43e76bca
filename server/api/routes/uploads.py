"""The part of fal's file hosts that takes files: whole, or in parts.

fal's clients differ. The Python client sends its token with every request and asks for parts under
the file's own URL; the JavaScript client puts to the URL that it was given, without a key.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from server.api.dependencies import (
    BaseUrlDep,
    JsonDep,
    ServicesDep,
    UploaderDep,
    begin_with_key,
    has_room,
)
from server.api.openapi.parts import BYTES_BODY, LIFECYCLE, TEXT, header, json_body
from server.errors import BadRequest, UnknownUpload
from server.fal.headers import file_lifetime_s
from server.fal.schemas import read_as
from server.fal.urls import Service
from server.files.content_types import content_type_of, essence_of, file_name_of
from server.files.upload_store import NewUpload, Upload
from server.files.uploads import MAX_PARTS, PartClaim

router = APIRouter(prefix="/files", tags=[Service.FILES], dependencies=[Depends(has_room)])


class PartView(BaseModel):
    """A part, in the words of both clients."""

    model_config = ConfigDict(frozen=True)

    part_number: Annotated[int, Field(alias="partNumber")]
    etag: str


class CompleteRequest(BaseModel):
    """The parts that make up the file, in any order."""

    model_config = ConfigDict(frozen=True)

    parts: Annotated[list[PartView], Field(max_length=MAX_PARTS)]


async def _upload_by_url(upload_id: str, request: Request, services: ServicesDep) -> None:
    """Find the upload whose id is in the URL: knowing it is enough, but a key must be its own."""
    upload = await services.uploads.find(upload_id)
    await services.auth.check_key(upload.key_id)
    begin_with_key(request, services, upload.key_id)
    authorization = request.headers.get("authorization")
    if authorization is not None:
        caller = await services.auth.caller(authorization, None)
        _check_owner(upload, caller.key_id)
    request.state.upload = upload


async def _upload_by_file(
    file_id: str,
    _: Annotated[str, Path(alias="name")],
    upload_id: str,
    request: Request,
    services: ServicesDep,
    caller: UploaderDep,
) -> None:
    """Find the upload of a file, for the key that began it."""
    upload = await services.uploads.find(upload_id)
    _check_owner(upload, caller.key_id)
    if upload.file_id != file_id:
        raise UnknownUpload
    request.state.upload = upload


class AccessUrl(TypedDict):
    """Where a file can be read."""

    access_url: str


class BegunUpload(BaseModel):
    """Where a file will be read, and the upload that brings it."""

    access_url: str
    upload_id: Annotated[str, Field(serialization_alias="uploadId")]


_FILE_HEADERS = [header("X-Fal-File-Name", "The file's name."), LIFECYCLE]
_ETAG: dict[int | str, dict[str, Any]] = {
    200: {"headers": {"etag": {"description": "The part's tag.", "schema": TEXT}}}
}


@router.post(
    "/upload",
    response_description="Where it can be read.",
    openapi_extra={"parameters": _FILE_HEADERS, "requestBody": BYTES_BODY},
)
async def upload_file(
    request: Request, services: ServicesDep, caller: UploaderDep, base_url: BaseUrlDep
) -> AccessUrl:
    """Keep the body as a file."""
    file = await services.uploads.receive(
        _upload_of_headers(request, caller.key_id), services.bodies.chunks(request)
    )
    return {"access_url": services.file_links.url(base_url, file.id, file.name)}


@router.post(
    "/upload/multipart",
    response_description="Where it will be.",
    openapi_extra={"parameters": _FILE_HEADERS},
)
async def begin_multipart(
    request: Request, services: ServicesDep, caller: UploaderDep, base_url: BaseUrlDep
) -> BegunUpload:
    """Begin a file that comes in parts."""
    new = _upload_of_headers(request, caller.key_id)
    upload = await services.uploads.begin(new, in_parts=True)
    url = services.file_links.url(base_url, upload.file_id, upload.file_name)
    return BegunUpload(access_url=url, upload_id=upload.id)


@router.put(
    "/upload/{upload_id}",
    dependencies=[Depends(_upload_by_url)],
    response_description="It is here.",
    openapi_extra={"requestBody": BYTES_BODY},
)
async def put_file(request: Request, services: ServicesDep) -> dict[str, Any]:
    """The file of an upload, whole.

    The URL is all that is needed.
    """
    upload: Upload = request.state.upload
    given = request.headers.get("content-type")
    if given is not None and essence_of(given) != essence_of(upload.content_type):
        raise BadRequest(
            f"This upload was begun for a file of type {upload.content_type!r}, not {given!r}."
        )
    await services.uploads.put(upload, services.bodies.chunks(request))
    return {}


@router.put(
    "/upload/{upload_id}/{number}",
    dependencies=[Depends(_upload_by_url)],
    description="A part of an upload.\n\nThe URL is all that is needed.",
    response_description="The part is here.",
    responses=_ETAG,
    openapi_extra={"requestBody": BYTES_BODY},
)
@router.put(
    "/{file_id}/{name}/multipart/{upload_id}/{number}",
    dependencies=[Depends(_upload_by_file)],
    name="put_part_of_file",
    response_description="The part is here.",
    responses=_ETAG,
    openapi_extra={"requestBody": BYTES_BODY},
)
async def put_part(
    request: Request,
    number: Annotated[
        str, Path(json_schema_extra={"type": "integer", "minimum": 1, "maximum": MAX_PARTS})
    ],
    services: ServicesDep,
    response: Response,
) -> PartView:
    """A part of a file."""
    if not number.isascii() or not number.isdigit() or len(number) > 9:
        raise BadRequest(f"{number!r} is not the number of a part.")
    part = await services.uploads.put_part(
        request.state.upload, int(number), services.bodies.chunks(request)
    )
    etag = f'"{part.sha256}"'
    response.headers["etag"] = etag
    return PartView.model_validate({"partNumber": part.number, "etag": etag})


@router.post(
    "/upload/{upload_id}/complete",
    dependencies=[Depends(_upload_by_url)],
    name="complete_upload",
    description="Make the parts of an upload one file.\n\nThe URL is all that is needed.",
    response_description="The file is here.",
    openapi_extra={"requestBody": json_body(CompleteRequest)},
)
@router.post(
    "/{file_id}/{name}/multipart/{upload_id}/complete",
    dependencies=[Depends(_upload_by_file)],
    name="complete_file",
    response_description="The file is here.",
    openapi_extra={"requestBody": json_body(CompleteRequest)},
)
async def complete(request: Request, services: ServicesDep, body: JsonDep) -> dict[str, Any]:
    """Make the parts one file."""
    parts = read_as(CompleteRequest, body).parts
    claims = [PartClaim(part.part_number, part.etag) for part in parts]
    await services.uploads.complete(request.state.upload, claims)
    return {}


def new_upload(
    request: Request, key_id: str | None, file_name: str | None, content_type: str | None
) -> NewUpload:
    """The file that a request announces, kept for as long as its headers ask for."""
    content_type = content_type_of(content_type)
    headers = request.headers
    # Clients send one header, the other, or both.
    lifecycle = headers.get("x-fal-object-lifecycle")
    return NewUpload(
        key_id=key_id,
        file_name=file_name_of(file_name, content_type),
        content_type=content_type,
        lifetime_s=file_lifetime_s(lifecycle or headers.get("x-fal-object-lifecycle-preference")),
    )


def _upload_of_headers(request: Request, key_id: str | None) -> NewUpload:
    file_name = _text_of(request.headers.get("x-fal-file-name"))
    return new_upload(request, key_id, file_name, request.headers.get("content-type"))


def _text_of(value: str | None) -> str | None:
    """A header that may hold more than ASCII: clients send UTF-8, or what fetch makes of it."""
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def _check_owner(upload: Upload, key_id: str | None) -> None:
    if upload.key_id != key_id:
        raise UnknownUpload
