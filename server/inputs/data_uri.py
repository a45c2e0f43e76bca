"""Data URIs: the bytes of an image that came within the request."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from pipeline.errors import FileTooLarge, ImageUnreadable, InputError
from pipeline.image import MAX_BYTES
from server.fal.invalid_input import InvalidInput

_URL_LETTERS = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\n\v\f\r"


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
    if _is_base64(header):
        data = _decode_base64(unquote_to_bytes(body), field)
    # Three characters for a byte at most; looked at before decoding.
    elif len(body) - 2 * body.count("%") > MAX_BYTES:
        raise file_too_large(field)
    else:
        data = unquote_to_bytes(body)
    if len(data) > MAX_BYTES:
        raise file_too_large(field)
    return data


def _decode_base64(text: bytes, field: str) -> bytes:
    """Decode as browsers do: line breaks and spaces do not count, and `=` may be left out.

    The letters of URLs, - and _, are as good as + and /.
    """
    digits = text.translate(_URL_LETTERS, _WHITESPACE).rstrip(b"=")
    # Four characters for three bytes; looked at before decoding.
    if len(digits) > MAX_BYTES * 4 / 3 + 4:
        raise file_too_large(field)
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error as error:
        raise ImageUnreadable(field, f"The data URI is not base64: {error}.") from error


def _is_base64(header: str) -> bool:
    return header.lower().replace(" ", "").endswith(";base64")
