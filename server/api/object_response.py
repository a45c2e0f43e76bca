"""A file of a bucket, or a part of it, as an answer: read a piece at a time while it is sent.

What is on the disk is answered by Starlette's FileResponse, which reads files alone.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from server.api.middleware import CutOff
from server.errors import FilesAway, UnknownFile
from server.files.content_types import HEAD_BYTES, is_shown
from server.files.public import PublicFile

if TYPE_CHECKING:
    from server.files.s3 import S3Files

_PIECE_BYTES = 1024 * 1024

_RANGE = re.compile(r"bytes=\s*(\d*)\s*-\s*(\d*)\s*", re.ASCII | re.IGNORECASE)


async def object_response(
    files: "S3Files", request: Request, file: PublicFile, headers: Mapping[str, str]
) -> Response:
    """The file, or the part that the request's Range names. Of several parts it is the whole.

    Where the bucket goes away while it is sent, the answer is cut off.

    Raises:
        UnknownFile: there is none.
        FilesAway: the bucket cannot be read now.
    """
    wanted = _wanted(request, file.size, headers["etag"])
    if wanted is None:
        return Response(status_code=416, headers={"content-range": f"bytes */{file.size}"})
    start, end, is_part = wanted
    is_head = request.method == "HEAD"
    first_end = start if is_head else min(start + _PIECE_BYTES, end)
    try:
        # What a file is, is told by its first bytes, wherever the part is.
        head, first = await asyncio.gather(
            _read(files, file.id, 0, min(HEAD_BYTES, file.size)),
            _read(files, file.id, start, first_end),
        )
    except FileNotFoundError as error:
        # Its time ended just after its row was read.
        raise UnknownFile from error
    kind = "inline" if is_shown(file.content_type, head) else "attachment"
    answer = {
        **headers,
        "accept-ranges": "bytes",
        "content-length": str(end - start),
        "content-disposition": _disposition(kind, file.name),
        **({"content-range": f"bytes {start}-{end - 1}/{file.size}"} if is_part else {}),
    }
    status = 206 if is_part else 200
    if is_head:
        return Response(status_code=status, headers=answer)
    return StreamingResponse(_pieces(files, file.id, first, first_end, end), status, answer)


async def _pieces(
    files: "S3Files", file_id: str, first: bytes, start: int, end: int
) -> AsyncIterator[bytes]:
    yield first
    while start < end:
        piece_end = min(start + _PIECE_BYTES, end)
        try:
            piece = await files.read_range(file_id, start, piece_end)
        except FilesAway as error:
            raise CutOff(
                f"of the file {file_id} no more could be read. {error.sentence}"
            ) from error
        except FileNotFoundError as error:
            raise CutOff(f"the file {file_id} was removed meanwhile") from error
        yield piece
        start = piece_end


async def _read(files: "S3Files", file_id: str, start: int, end: int) -> bytes:
    return await files.read_range(file_id, start, end) if start < end else b""


def _wanted(request: Request, size: int, etag: str) -> tuple[int, int, bool] | None:
    """From where to where the request wants the file, and whether it asks for a part.

    None if the file has no such part. A Range that cannot be read is none, as RFC 9110 has it.
    """
    if_range = request.headers.get("if-range")
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    is_read = request.method in ("GET", "HEAD")
    if not is_read or asked is None or asked[1] + asked[2] == "" or if_range not in (None, etag):
        return 0, size, False
    if asked[1] == "":
        start, end = max(0, size - int(asked[2])), size
    else:
        start, last = int(asked[1]), int(asked[2] or size)
        if last < start < size:
            return 0, size, False
        end = min(last + 1, size)
    return (start, end, True) if start < end else None


def _disposition(kind: str, name: str) -> str:
    quoted = quote(name)
    return f"{kind}; filename*=utf-8''{quoted}" if quoted != name else f'{kind}; filename="{name}"'
