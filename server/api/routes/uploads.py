"""The part of fal's file hosts that takes files: whole, or in parts.

fal's clients differ. The Python client sends its token with every request and asks for parts under
the file's own URL; the JavaScript client puts to the URL that it was given, without a key.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from server.api.dependencies import BaseUrlDep, JsonDep, ServicesDep, UploaderDep, has_room
from server.errors import BadRequest, UnknownUpload
from server.fal.headers import file_lifetime_s
from server.fal.schemas import read_as
from server.files.content_types import content_type_of, essence_of, file_name_of
from server.files.upload_store import NewUpload, Part, Upload
from server.files.uploads import MAX_PARTS, PartClaim

router = APIRouter(prefix="/files")


class PartView(BaseModel):
    """A part, in the words of both clients."""

    model_config = ConfigDict(frozen=True)

    part_number: Annotated[int, Field(alias="partNumber")]
    etag: str


class CompleteRequest(BaseModel):
    """The parts that make up the file, in any order."""

    model_config = ConfigDict(frozen=True)

    parts: Annotated[list[PartView], Field(max_length=MAX_PARTS)]


async def _upload_by_url(upload_id: str, request: Request, services: ServicesDep) -> Upload:
    """The upload whose id is in the URL: knowing it is enough, but a key must be the right one."""
    upload = await services.uploads.find(upload_id)
    await services.auth.check_key(upload.key_id)
    authorization = request.headers.get("authorization")
    if authorization is not None:
        caller = await services.auth.caller(authorization, None)
        _check_owner(upload, caller.key_id)
    return upload


async def _upload_by_file(
    file_id: str, upload_id: str, services: ServicesDep, caller: UploaderDep
) -> Upload:
    """The upload of a file, for whoever began it."""
    upload = await services.uploads.find(upload_id)
    _check_owner(upload, caller.key_id)
    if upload.file_id != file_id:
        raise UnknownUpload
    return upload


UrlUploadDep = Annotated[Upload, Depends(_upload_by_url)]
FileUploadDep = Annotated[Upload, Depends(_upload_by_file)]


@router.post("/upload", dependencies=[Depends(has_room)])
async def upload_file(
    request: Request, services: ServicesDep, caller: UploaderDep, base_url: BaseUrlDep
) -> Response:
    """Keep the body as a file."""
    file = await services.uploads.receive(
        _new_upload(request, caller.key_id), services.bodies.chunks(request)
    )
    return JSONResponse({"access_url": services.file_links.url(base_url, file.id, file.name)})


@router.post("/upload/multipart", dependencies=[Depends(has_room)])
async def begin_multipart(
    request: Request, services: ServicesDep, caller: UploaderDep, base_url: BaseUrlDep
) -> Response:
    """Begin a file that comes in parts."""
    upload = await services.uploads.begin(_new_upload(request, caller.key_id), in_parts=True)
    url = services.file_links.url(base_url, upload.file_id, upload.file_name)
    return JSONResponse({"access_url": url, "uploadId": upload.id})


@router.put("/upload/{upload_id}", dependencies=[Depends(has_room)])
async def put_file(request: Request, services: ServicesDep, upload: UrlUploadDep) -> Response:
    """Take in the file of an upload, whole."""
    _check_type(upload, request.headers.get("content-type"))
    await services.uploads.put(upload, services.bodies.chunks(request))
    return JSONResponse({})


@router.put("/upload/{upload_id}/{number}", dependencies=[Depends(has_room)])
async def put_part(
    request: Request, number: str, services: ServicesDep, upload: UrlUploadDep
) -> Response:
    """Take in a part."""
    return _part_view(
        await services.uploads.put_part(
            upload, _part_number(number), services.bodies.chunks(request)
        )
    )


@router.post("/upload/{upload_id}/complete", dependencies=[Depends(has_room)])
async def complete(services: ServicesDep, upload: UrlUploadDep, body: JsonDep) -> Response:
    """Make the parts one file."""
    await services.uploads.complete(upload, _claims(body))
    return JSONResponse({})


@router.put("/{file_id}/{name}/multipart/{upload_id}/{number}", dependencies=[Depends(has_room)])
async def put_part_of_file(
    request: Request, number: str, services: ServicesDep, upload: FileUploadDep
) -> Response:
    """Take in a part."""
    return _part_view(
        await services.uploads.put_part(
            upload, _part_number(number), services.bodies.chunks(request)
        )
    )


@router.post("/{file_id}/{name}/multipart/{upload_id}/complete", dependencies=[Depends(has_room)])
async def complete_file(services: ServicesDep, upload: FileUploadDep, body: JsonDep) -> Response:
    """Make the parts one file."""
    await services.uploads.complete(upload, _claims(body))
    return JSONResponse({})


def lifetime_asked(request: Request) -> float | None:
    """Seconds that the caller wants the file kept: clients send one header, the other, or both."""
    headers = request.headers
    return file_lifetime_s(
        headers.get("x-fal-object-lifecycle") or headers.get("x-fal-object-lifecycle-preference")
    )


def _new_upload(request: Request, key_id: str | None) -> NewUpload:
    content_type = content_type_of(request.headers.get("content-type"))
    return NewUpload(
        key_id=key_id,
        file_name=file_name_of(_header_text(request, "x-fal-file-name"), content_type),
        content_type=content_type,
        lifetime_s=lifetime_asked(request),
    )


def _header_text(request: Request, name: str) -> str | None:
    """A header that may hold more than ASCII: clients send UTF-8, or what fetch makes of it."""
    value = request.headers.get(name)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def _check_owner(upload: Upload, key_id: str | None) -> None:
    if upload.key_id != key_id:
        raise UnknownUpload


def _check_type(upload: Upload, given: str | None) -> None:
    if given is not None and essence_of(given) != essence_of(upload.content_type):
        raise BadRequest(
            f"This upload was begun for a file of type {upload.content_type!r}, not {given!r}."
        )


def _part_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadRequest(f"{text!r} is not the number of a part.")
    return int(text)


def _part_view(part: Part) -> Response:
    etag = f'"{part.sha256}"'
    return JSONResponse({"partNumber": part.number, "etag": etag}, headers={"etag": etag})


def _claims(body: bytes) -> list[PartClaim]:
    parts = read_as(CompleteRequest, body).parts
    return [PartClaim(part.part_number, part.etag) for part in parts]
