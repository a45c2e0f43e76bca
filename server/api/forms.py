"""Forms: the fields of a body of the type multipart/form-data, as a JSON body would have them."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.errors import BadRequest
from server.files.content_types import HEAD_BYTES, essence_of, family_of

FORM = "multipart/form-data"

MAX_FORM_BYTES = 24 * 1024 * 1024
"""A file of this size is as long as the longest data URI that a JSON body has room for."""

MAX_FIELDS = 100
_PIECE_BYTES = 256 * 1024


class _Parser(MultiPartParser):
    # The body is in memory, and no larger than this: nothing is written to a temporary file.
    spool_max_size = MAX_FORM_BYTES


def is_form(headers: Headers) -> bool:
    """Whether the body that comes with these headers is a form."""
    return essence_of(headers.get("content-type", "")) == FORM


async def read_form(headers: Headers, body: bytes) -> dict[str, Any]:
    """The fields of a form. Its file, if there is one, is a data URI; empty fields are left out.

    `reference[image_url]` is the field `image_url` of an object `reference`, as OpenAI's clients
    write it.

    Raises:
        BadRequest: it is no form, or has more than one file.
    """
    parser = _Parser(headers, _pieces(body), max_files=1, max_fields=MAX_FIELDS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequest(f"The form cannot be read. {error.message}") from error
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        text = await _data_uri(value) if isinstance(value, UploadFile) else value
        outer, bracket, inner = name.partition("[")
        if not text:
            continue
        if bracket and inner.endswith("]"):
            fields[outer] = {**_object(fields.get(outer)), inner[:-1]: text}
        else:
            fields[name] = text
    return fields


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


async def _data_uri(file: UploadFile) -> str:
    with file.file:
        data = file.file.read()
    if not data and not file.filename:
        # A browser sends this where no file was chosen.
        return ""
    # Clients that do not know the type of a file name another.
    family = family_of(data[:HEAD_BYTES])
    content_type = f"{family}/*" if family else file.content_type or ""
    base64 = await asyncio.to_thread(b64encode, data)
    return f"data:{content_type};base64,{base64.decode()}"


async def _pieces(body: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]
        # Others have their turns on the loop meanwhile.
        await asyncio.sleep(0)
