"""Data URIs: the bytes of an image that came within the request."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from pipeline.errors import FileTooLarge, ImageUnreadable, InputError
from pipeline.image import MAX_BYTES
from server.fal.invalid_input import InvalidInput


def decode_data_uri(uri: str, field: str) -> bytes:
    """The bytes of a data URI. What it says of their type is ignored: the bytes tell.

    Raises:
        InvalidInput: it is malformed, or has more bytes than an image may have.
    """
    try:
        return _decode_data_uri(uri, field)
    except InputError as error:
        raise InvalidInput.from_error(error, uri) from error


def is_data_uri(url: str) -> bool:
    return url[:5].lower() == "data:"


def file_too_large(field: str) -> FileTooLarge:
    """The error for a file with more bytes than an image may have."""
    return FileTooLarge(
        field,
        f"The file is larger than {MAX_BYTES:,} bytes, which is the limit for pictures.",
        {"max_size": MAX_BYTES},
    )


def _decode_data_uri(uri: str, field: str) -> bytes:
    header, comma, body = uri.partition(",")
    if not comma:
        raise ImageUnreadable(field, "The data URI has no comma, so it has no data.")
    # Four characters for three bytes, or as many as three for one; checked before decoding.
    if len(body) > MAX_BYTES * (4 / 3 if _is_base64(header) else 3) + 4:
        raise file_too_large(field)
    if not _is_base64(header):
        data = unquote_to_bytes(body)
    else:
        try:
            data = base64.b64decode(unquote_to_bytes(body), validate=True)
        except binascii.Error as error:
            raise ImageUnreadable(field, f"The data URI is not base64: {error}.") from error
    if len(data) > MAX_BYTES:
        raise file_too_large(field)
    return data


def _is_base64(header: str) -> bool:
    return header.lower().endswith(";base64")
