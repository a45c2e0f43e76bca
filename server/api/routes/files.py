"""Files: videos and uploads. Anyone with the URL may read one, as at fal, unless settings differ.

Nothing here is to be trusted by a browser: only pictures and videos are shown, and no page that
somebody uploaded as a file runs or looks as if it came from this server.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from starlette.types import Message, Receive, Scope, Send

from server.api.dependencies import AnyCallerDep, Services, ServicesDep
from server.api.object_response import object_response
from server.api.openapi.parts import BYTES, content, header, problem, query
from server.config.setting_types import FilesAuth
from server.errors import UnknownFile
from server.fal.urls import Service
from server.files.access import ReadPermission
from server.files.content_types import HEAD_BYTES, is_shown, may_be_shown, served_type
from server.files.links import END, SIGNATURE
from server.files.local import LocalFiles
from server.files.public import PublicFile

if TYPE_CHECKING:
    from server.files.s3 import S3Files

MAX_CACHE_S = 365 * 24 * 3600

BUCKET_URL_S = 3600
"""How long a signed URL of the bucket is good at most."""


async def _by_caller(services: ServicesDep, caller: AnyCallerDep) -> ReadPermission:
    """What the request may read by its key; before anything is looked for."""
    return services.file_access.by_caller(caller)


async def _by_url(file_id: str, request: Request, services: ServicesDep) -> ReadPermission:
    """What the request may read by its URL."""
    return services.file_access.by_url(file_id, request.url.query)


_READERS: Mapping[FilesAuth, str] = {
    "public": "The URL is all that is needed.",
    "signed": "The URL is all that is needed, with the query that the server gave it.",
    "key": "For the key that it belongs to.",
}
_SIGNATURE = [
    query(END, "Until when the URL is good, in Unix seconds.", required=True),
    query(SIGNATURE, "The server's, of the file and that time.", required=True),
]


def file_router(files_auth: FilesAuth) -> APIRouter:
    """The routes that read files, for those who may."""
    router = APIRouter(prefix="/files", tags=[Service.FILES])
    is_signed = files_auth == "signed"
    permission = _by_caller if files_auth == "key" else _by_url
    readers = _READERS[files_auth]
    parameters = _SIGNATURE if is_signed else []

    @router.get(
        "/{file_id}/{name}",
        response_class=FileResponse,
        description=f"A video or an upload.\n\n{readers}",
        responses={
            200: content("The file.", BYTES, "*/*"),
            206: content("The parts that a Range header names.", BYTES, "*/*"),
            416: {"description": "The file has no such part."},
            **({403: problem("The URL is not signed, or its time is over.")} if is_signed else {}),
        },
        openapi_extra={"parameters": [*parameters, header("Range", "The parts that are wanted.")]},
    )
    @router.head(
        "/{file_id}/{name}",
        name="file_head",
        response_class=FileResponse,
        description=f"Type and size of a file.\n\n{readers}",
        response_description="As of the file.",
        openapi_extra={"parameters": parameters},
    )
    async def file(
        file_id: str,
        name: str,
        request: Request,
        services: ServicesDep,
        permit: Annotated[ReadPermission, Depends(permission)],
    ) -> Response:
        return await file_answer(services, request, file_id, name, permit)

    return router


async def file_answer(
    services: Services, request: Request, file_id: str, name: str | None, permit: ReadPermission
) -> Response:
    """A file, or the part of it that the request's Range names; `name` as for `PublicFiles.find`.

    Raises:
        UnknownFile: there is none, or it is not one that may be read.
    """
    found = await asyncio.to_thread(services.public_files.find, file_id, name, permit)
    headers = _headers(found, permit, services.file_access.now())
    if not isinstance(services.files, LocalFiles):
        if services.settings.files_serving == "redirect" and _may_be_redirected(request, found):
            return await _redirect(services, services.files, found, permit)
        return await object_response(services.files, request, found, headers)
    path = services.files.path(found.id)
    head, stat = await asyncio.to_thread(_look_at, path)
    return _FileOrError(
        path,
        stat_result=stat,
        filename=found.name,
        content_disposition_type="inline" if is_shown(found.content_type, head) else "attachment",
        headers=headers,
    )


def _may_be_redirected(request: Request, file: PublicFile) -> bool:
    """Whether the bucket may answer, which does not know our headers.

    It may for pictures and videos alone, since all else has to be an attachment; and not for the
    server's own page, which loads from this server only.
    """
    is_own_page = request.headers.get("sec-fetch-site") == "same-origin"
    return request.method == "GET" and may_be_shown(file.content_type) and not is_own_page


async def _redirect(
    services: Services, files: "S3Files", file: PublicFile, permit: ReadPermission
) -> Response:
    seconds = min(BUCKET_URL_S, _seconds_left(file, permit, services.file_access.now()))
    url = await asyncio.to_thread(files.signed_url, file.id, seconds=max(1, seconds))
    # All who have it can read the file: it is not for a cache that others use.
    return RedirectResponse(url, headers={"cache-control": "private, no-store"})


class _FileOrError(FileResponse):
    """A file whose head is sent with its first bytes, so that one that cannot be opened is
    answered with an error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: list[Message] = []

        async def send_with_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.append(message)
                return
            while head:
                await send(head.pop())
            await send(message)

        try:
            await super().__call__(scope, receive, send_with_head)
        except FileNotFoundError as error:
            raise UnknownFile from error


def _look_at(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES), os.fstat(file.fileno())
    except FileNotFoundError as error:
        # Its time ended just after its row was read.
        raise UnknownFile from error


def _headers(file: PublicFile, permit: ReadPermission, now: float) -> dict[str, str]:
    return {
        # As it was given: no charset is made up for a text.
        "content-type": served_type(file.content_type),
        "etag": f'"{file.sha256}"',
        "cache-control": _caching(file, permit, now),
        "x-content-type-options": "nosniff",
        "content-security-policy": (
            "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; "
            "style-src 'unsafe-inline'"
        ),
    }


def _caching(file: PublicFile, permit: ReadPermission, now: float) -> str:
    if permit.owners is not None:
        # The next to ask for it in this browser may have another key.
        return "private, no-cache"
    return f"private, max-age={_seconds_left(file, permit, now)}, immutable"


def _seconds_left(file: PublicFile, permit: ReadPermission, now: float) -> int:
    """How long the file may still be read by this URL; a year, if that does not end."""
    ends = [end for end in (file.expires_at, permit.ends_at) if end is not None]
    return min([MAX_CACHE_S, *(max(0, int(end - now)) for end in ends)])
